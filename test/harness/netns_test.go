package harness

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
)

// ownNetwork is the test process's, before there is a test.
var ownNetwork = Namespace(os.Getpid(), "net")

// TestProcessStaysInItsNetwork: what is done in others is done by threads that end.
func TestProcessStaysInItsNetwork(t *testing.T) {
	n, err := newNet("other")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for range 500 { // any of them may get the process's first thread
		if err := n.Do(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if now := Namespace(os.Getpid(), "net"); now != ownNetwork {
		t.Errorf("it is in %s, began in %s", now, ownNetwork)
	}
}

func TestNodeReachesOutside(t *testing.T) {
	node, outside, err := NewNode()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	defer outside.Close()
	outside.Serve(t, ":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }))
	for _, host := range []string{OutsideIPv4, "[" + OutsideIPv6 + "]"} {
		resp, err := node.Client().Get("http://" + host)
		if err != nil {
			t.Error(err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		t.Logf("%s saw %s", host, body)
	}
	if _, err := http.Get("http://" + OutsideIPv4); err == nil {
		t.Error("the machine's own network reaches the outside namespace too")
	}
}
