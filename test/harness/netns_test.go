package harness

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

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
