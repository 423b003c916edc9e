package kubelet_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
)

// kubeletAddress is where the kubelet serves, inside the node's namespace.
const kubeletAddress = "127.0.0.1:10250"

// An api asks the kubelet, whose certificate is its own.
type api struct {
	client *http.Client
	node   *harness.Net
}

func newAPI(node *harness.Net) api {
	return api{node: node, client: &http.Client{
		Timeout: harness.Long(30 * time.Second),
		Transport: &http.Transport{DialContext: node.Dial, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}}
}

// get returns a page.
func (a api) get(path string) (string, error) {
	resp, err := a.client.Get("https://" + kubeletAddress + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// post sends nothing to a path and returns the answer.
func (a api) post(path string) (string, error) {
	resp, err := a.client.Post("https://"+kubeletAddress+path, "", nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// podList returns the kubelet's pods with their status.
func (n *Node) podList(t testing.TB) []v1.Pod {
	t.Helper()
	text, err := n.api.get("/pods")
	if err != nil {
		t.Fatalf("cannot list the kubelet's pods: %v\n%s", err, n.tail())
	}
	var list v1.PodList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// metric returns the sum of a metric's samples whose labels contain all of these
// texts, such as `result="failed"`.
func (n *Node) metric(t testing.TB, path, name string, labels ...string) (sum float64, found bool) {
	t.Helper()
	text, err := n.api.get(path)
	if err != nil {
		t.Fatal(err)
	}
lines:
	for line := range strings.Lines(text) {
		head, rest, ok := strings.Cut(strings.TrimSpace(line), "{")
		if !ok || head != name {
			continue
		}
		set, value, _ := strings.Cut(rest, "}")
		for _, l := range labels {
			if !strings.Contains(set, l) {
				continue lines
			}
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sum, found = sum+v, true
	}
	return sum, found
}

// relay forwards a port of the test's own namespace into the node's, for clients
// that dial by themselves, until the test ends.
func (n *Node) relay(t testing.TB, target string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			here, err := l.Accept()
			if err != nil {
				return
			}
			go n.forward(here, target)
		}
	}()
	return l.Addr().String()
}

func (n *Node) forward(here net.Conn, target string) {
	defer here.Close()
	there, err := n.Node.Dial(n.Context(), "tcp", target)
	if err != nil {
		return
	}
	defer there.Close()
	go func() {
		io.Copy(there, here)
		there.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(here, there)
}
