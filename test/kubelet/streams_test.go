package kubelet_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

func init() {
	scenarios["logs endpoint"] = logsEndpoint
	scenarios["exec endpoint"] = execEndpoint
	scenarios["attach endpoint"] = attachEndpoint
	scenarios["port-forward endpoint"] = portForwardEndpoint
}

// sync runs a command by the kubelet's /run, which waits for its end.
func (p *Pod) sync(container string, command ...string) (string, error) {
	q := url.Values{"cmd": {strings.Join(command, " ")}}
	return p.api.post("/run/default/" + p.Name + "/" + container + "?" + q.Encode())
}

// logsEndpoint gives the whole log, its end, and what is written later.
func logsEndpoint(t *testing.T, n *Node) {
	p := n.run(t, v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{
		sh("c", "echo one; echo two >&2; echo -n three"), sh("d", "echo first; echo -n last")}})
	p.until("the end", func(pod *v1.Pod) bool { return pod.Status.Phase == v1.PodSucceeded })
	path := "/containerLogs/default/" + p.Name + "/"
	all, err := n.api.get(path + "c")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one\n", "two\n", "three"} {
		if !strings.Contains(all, want) {
			t.Errorf("the log %q lacks %q", all, want)
		}
	}
	// One stream alone: of two, nobody promises which line comes first. It ends with the container.
	tail, err := n.api.get(path + "d?tailLines=1&follow=true")
	if err != nil || !strings.HasPrefix(tail, "last") {
		t.Errorf("the last line: %q, %v", tail, err)
	}
}

// rest is a client's configuration, and the address of an endpoint.
func (p *Pod) rest(endpoint string, query url.Values) (*rest.Config, *url.URL) {
	p.t.Helper()
	address := p.relay(p.t, kubeletAddress)
	return &rest.Config{Host: "https://" + address, TLSClientConfig: rest.TLSClientConfig{Insecure: true}},
		&url.URL{Scheme: "https", Host: address, Path: "/" + endpoint + "/default/" + p.Name, RawQuery: query.Encode()}
}

// executors are the two ways in which kubectl may come.
func (p *Pod) executors(endpoint string, query url.Values) map[string]remotecommand.Executor {
	p.t.Helper()
	config, u := p.rest(endpoint, query)
	u.Path += "/c"
	s, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	if err != nil {
		p.t.Fatal(err)
	}
	w, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	if err != nil {
		p.t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"SPDY": s, "WebSocket": w}
}

// execEndpoint: stdin goes in, both outputs and the exit code come out.
func execEndpoint(t *testing.T, n *Node) {
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{sh("c", "sleep 1000")}})
	p.ready()
	query := url.Values{"command": {"/bin/sh", "-c", "cat; echo err >&2; exit 5"}, "input": {"1"}, "output": {"1"}, "error": {"1"}}
	for how, e := range p.executors("exec", query) {
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("in"), Stdout: &stdout, Stderr: &stderr})
		cancel()
		if code, ok := err.(interface{ ExitStatus() int }); !ok || code.ExitStatus() != 5 {
			t.Errorf("%s: %v, want exit code 5", how, err)
		}
		equal(t, how+": stdout", stdout.String(), "in")
		equal(t, how+": stderr", stderr.String(), "err\n")
	}
	out, err := p.sync("c", "echo", "hello")
	if err != nil || out != "hello\n" {
		t.Errorf("/run says %q, %v", out, err)
	}
}

// attachEndpoint reaches the process that runs already.
func attachEndpoint(t *testing.T, n *Node) {
	for _, how := range []string{"SPDY", "WebSocket"} {
		c := sh("c", "while read line; do echo got $line; done; echo over")
		c.Stdin, c.StdinOnce = true, true
		p := n.run(t, v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{c}})
		p.ready()
		e := p.executors("attach", url.Values{"input": {"1"}, "output": {"1"}, "error": {"1"}})[how]
		var stdout bytes.Buffer
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("a\nb\n"), Stdout: &stdout, Stderr: &bytes.Buffer{}})
		cancel()
		if err != nil || !strings.Contains(stdout.String(), "got a\ngot b\n") {
			t.Errorf("%s: %q, %v", how, stdout.String(), err)
		}
		pod := p.until("the end: its input is closed after the first attach", func(pod *v1.Pod) bool { return pod.Status.Phase == v1.PodSucceeded })
		equal(t, how+": log", p.output(pod, "c"), "got a\ngot b\nover\n")
	}
}

// portForwardEndpoint reaches a port that listens on the pod's loopback too.
func portForwardEndpoint(t *testing.T, n *Node) {
	p := n.run(t, v1.PodSpec{Containers: []v1.Container{serving(8080, "forwarded")}})
	p.ready()
	config, u := p.rest("portForward", nil)
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	stop, ready := make(chan struct{}), make(chan struct{})
	var out bytes.Buffer
	f, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, &out, &out)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("forwarding ended: %v", err)
	case <-time.After(patience):
		t.Fatal("forwarding never became ready")
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		equal(t, "page", page(t, http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d", ports[0].Local)), "forwarded")
	}
	close(stop)
	<-ended
}
