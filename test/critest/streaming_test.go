package critest_test

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStreamingURLs: where a session is to be opened, and what is no session.
func TestStreamingURLs(t *testing.T) {
	clause(t, "If `tty` is true, `stderr` MUST be false. Multiplexing is not supported in this case.")
	n := newNode(t)
	p := n.pod()
	c := p.run(func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	exec := func(change func(*runtimeapi.ExecRequest)) (string, error) {
		r := &runtimeapi.ExecRequest{ContainerId: c.id, Cmd: []string{"/bin/cat"}, Stdin: true, Stdout: true}
		change(r)
		resp, err := n.runtime.Exec(n.ctx(), r)
		return resp.GetUrl(), err
	}
	attach := func(change func(*runtimeapi.AttachRequest)) (string, error) {
		r := &runtimeapi.AttachRequest{ContainerId: c.id, Stdin: true, Stdout: true}
		change(r)
		resp, err := n.runtime.Attach(n.ctx(), r)
		return resp.GetUrl(), err
	}
	forward := func(id string, ports ...int32) (string, error) {
		resp, err := n.runtime.PortForward(n.ctx(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports})
		return resp.GetUrl(), err
	}
	for what, call := range map[string]func() (string, error){
		"Exec":              func() (string, error) { return exec(func(*runtimeapi.ExecRequest) {}) },
		"Exec with stderr":  func() (string, error) { return exec(func(r *runtimeapi.ExecRequest) { r.Stderr = true }) },
		"Exec with tty":     func() (string, error) { return exec(func(r *runtimeapi.ExecRequest) { r.Tty = true }) },
		"Attach":            func() (string, error) { return attach(func(*runtimeapi.AttachRequest) {}) },
		"Attach for errors": func() (string, error) { return attach(func(r *runtimeapi.AttachRequest) { r.Stderr = true }) },
		"PortForward":       func() (string, error) { return forward(p.id, 80, 443) },
	} {
		url, err := call()
		if err != nil || !strings.Contains(url, "://") {
			t.Errorf("%s: %q, %v", what, url, err)
		}
	}
	for what, call := range map[string]func() (string, error){
		"Exec with tty, stderr": func() (string, error) { return exec(func(r *runtimeapi.ExecRequest) { r.Tty, r.Stderr = true, true }) },
		"Exec without streams": func() (string, error) {
			return exec(func(r *runtimeapi.ExecRequest) { r.Stdin, r.Stdout = false, false })
		},
		"Exec nowhere": func() (string, error) { return exec(func(r *runtimeapi.ExecRequest) { r.ContainerId = nothing }) },
		"Attach with tty, stderr": func() (string, error) {
			return attach(func(r *runtimeapi.AttachRequest) { r.Tty, r.Stderr = true, true })
		},
		"Attach without streams": func() (string, error) {
			return attach(func(r *runtimeapi.AttachRequest) { r.Stdin, r.Stdout = false, false })
		},
		"Attach nowhere":      func() (string, error) { return attach(func(r *runtimeapi.AttachRequest) { r.ContainerId = nothing }) },
		"PortForward nowhere": func() (string, error) { return forward(nothing, 80) },
	} {
		if url, err := call(); err == nil {
			t.Errorf("%s: it was accepted with %q", what, url)
		}
	}
	_, err := exec(func(r *runtimeapi.ExecRequest) { r.Cmd = nil })
	strict(t, "Exec of nothing", err)
}
