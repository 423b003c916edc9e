package routed

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// The table as the kernel holds it, in the words of nft(8): what an administrator
// sees, and docs/network.md explains.
func TestTableAsText(t *testing.T) {
	l := newLab(t)
	l.pod("8080:80/tcp", "127.0.0.1:9090:90/udp", "["+node6+"]:3868:3868/sctp")
	l.pod("8080:80/udp", node4+":8443:443/tcp")
	l.pod()
	got := l.tableText()
	const golden = "testdata/table.nft"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the table differs from %s (-update writes it):\n%s", golden, got)
	}
}

// The page for users shows the same table.
func TestTheDocumentedTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/network.md")
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("testdata/table.nft")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), string(table)) {
		t.Error("docs/network.md does not show testdata/table.nft as it is")
	}
}

// tableText is the instance's table as nft(8) prints it, empty if there is none.
func (l *lab) tableText() string {
	l.t.Helper()
	return strings.ReplaceAll(l.ownTable(), strings.Repeat("0", 56), "") // how the tests' pod ids end
}

func (l *lab) ownTable() string {
	l.t.Helper()
	text := l.ruleset()
	begin := strings.Index(text, "table inet "+l.cfg.Instance+" {\n")
	if begin < 0 {
		return ""
	}
	return text[begin : begin+strings.Index(text[begin:], "\n}\n")+len("\n}\n")]
}

// ruleset is every nftables table of the node, iptables' too.
func (l *lab) ruleset() (text string) {
	l.t.Helper()
	l.in(l.node, func() error {
		out, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput() // -s: without counters
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		text = string(out)
		return nil
	})
	return text
}
