package routed

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/cri-box/cri-box/network"
)

var update = flag.Bool("update", false, "write the golden files")

// The table as the kernel holds it, as text.
func TestTableAsText(t *testing.T) {
	l := newLab(t)
	l.pod("8080:80/tcp", "127.0.0.1:9090:90/udp", "["+node6+"]:3868:3868/sctp")
	l.pod("8080:80/udp", node4+":8443:443/tcp")
	l.pod()
	got := l.tableText()
	const golden = "testdata/table.txt"
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

// tableText reads the table back and writes it much as nft(8) does.
func (l *lab) tableText() string {
	l.t.Helper()
	var out strings.Builder
	l.in(l.node, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		return writeTable(&out, conn, l.cfg.Instance)
	})
	return out.String()
}

func writeTable(out *strings.Builder, conn *nftables.Conn, name string) error {
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	fmt.Fprintf(out, "table inet %s\n", name)
	sets, err := conn.GetSets(table)
	if err != nil {
		return err
	}
	for _, set := range sets {
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "\n%s: %s", set.Name, set.KeyType.Name)
		if set.IsMap {
			fmt.Fprintf(out, " -> %s", set.DataType.Name)
		}
		out.WriteString("\n")
		out.WriteString(elementText(elements))
	}
	chains, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Table.Name != name {
			continue
		}
		fmt.Fprintf(out, "\n%s", c.Name)
		if c.Hooknum != nil {
			fmt.Fprintf(out, ": %s hook %d priority %d policy %d", c.Type, *c.Hooknum, *c.Priority, *c.Policy)
		}
		out.WriteString("\n")
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return err
		}
		for _, r := range rules {
			words := make([]string, len(r.Exprs))
			for i, e := range r.Exprs {
				words[i] = word1(e)
			}
			fmt.Fprintf(out, "  %s\n", strings.Join(words, "; "))
		}
	}
	return nil
}

func elementText(elements []nftables.SetElement) string {
	var lines []string
	for _, e := range elements {
		line := "  " + keyText(e.Key)
		if len(e.Val) > 0 {
			line += " -> " + keyText(e.Val)
		}
		lines = append(lines, fmt.Sprintf("%s  # %s\n", line, e.Comment[:8]))
	}
	slices.Sort(lines) // the kernel's order is a hash's
	return strings.Join(lines, "")
}

// keyText guesses a concatenation's parts by its length: of 4 bytes each but for
// IPv6 addresses.
func keyText(b []byte) string {
	proto := func(b []byte) string { return network.Protocol(b[0]).String() }
	port := func(b []byte) string { return fmt.Sprint(binary.BigEndian.Uint16(b)) }
	ip := func(b []byte) string { a, _ := netip.AddrFromSlice(b); return a.String() }
	switch {
	case len(b) == 8 && b[0] >= 6 && b[1] == 0 && b[2] == 0 && b[3] == 0: // proto, port
		return proto(b) + " " + port(b[4:])
	case len(b) == 8 && b[6] == 0 && b[7] == 0:
		return ip(b[:4]) + " " + port(b[4:])
	case len(b) == 8:
		return ip(b[:4]) + " " + ip(b[4:])
	case len(b) == 12:
		return ip(b[:4]) + " " + proto(b[4:]) + " " + port(b[8:])
	case len(b) == 20:
		return ip(b[:16]) + " " + port(b[16:])
	case len(b) == 24:
		return ip(b[:16]) + " " + proto(b[16:]) + " " + port(b[20:])
	case len(b) == 32:
		return ip(b[:16]) + " " + ip(b[16:])
	}
	return fmt.Sprintf("%x", b)
}

func word1(e expr.Any) string {
	switch e := e.(type) {
	case *expr.Meta:
		name := map[expr.MetaKey]string{expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyOIFNAME: "oifname",
			expr.MetaKeyL4PROTO: "l4proto", expr.MetaKeyNFPROTO: "nfproto"}[e.Key]
		return fmt.Sprintf("$%d = %s", e.Register, name)
	case *expr.Cmp:
		op := map[expr.CmpOp]string{expr.CmpOpEq: "is", expr.CmpOpNeq: "is not"}[e.Op]
		if s := string(e.Data); strings.HasPrefix(s, "cb") {
			return fmt.Sprintf("$%d %s %s*", e.Register, op, s)
		}
		return fmt.Sprintf("$%d %s %x", e.Register, op, e.Data)
	case *expr.Payload:
		base := []string{"link", "network", "transport"}[e.Base]
		return fmt.Sprintf("$%d = %s header[%d:%d]", e.DestRegister, base, e.Offset, e.Offset+e.Len)
	case *expr.Bitwise:
		return fmt.Sprintf("$%d &= %x", e.DestRegister, e.Mask)
	case *expr.Fib:
		return fmt.Sprintf("$%d = fib%s", e.Register, fibText(e))
	case *expr.Lookup:
		if e.IsDestRegSet {
			return fmt.Sprintf("$%d = %s[$%d]", e.DestRegister, e.SetName, e.SourceRegister)
		}
		return fmt.Sprintf("$%d in %s", e.SourceRegister, e.SetName)
	case *expr.NAT:
		return fmt.Sprintf("dnat family %d to $%d port $%d", e.Family, e.RegAddrMin, e.RegProtoMin)
	case *expr.Masq:
		return fmt.Sprintf("masquerade fully-random=%v", e.FullyRandom)
	case *expr.Verdict:
		switch e.Kind {
		case expr.VerdictDrop:
			return "drop"
		case expr.VerdictReturn:
			return "return"
		case expr.VerdictJump:
			return "jump " + e.Chain
		}
	}
	return fmt.Sprintf("%+v", e)
}

func fibText(e *expr.Fib) string {
	text := ""
	for _, w := range []struct {
		on   bool
		word string
	}{{e.FlagSADDR, " saddr"}, {e.FlagDADDR, " daddr"}, {e.FlagIIF, " iif"}, {e.ResultOIF, " -> oif"},
		{e.ResultADDRTYPE, " -> type"}, {e.FlagPRESENT, " present"}} {
		if w.on {
			text += w.word
		}
	}
	return text
}
