package routed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/cri-box/cri-box/network"
)

// A process of the host has the port: the error names it.
func TestPortOfAHostProcess(t *testing.T) {
	l := newLab(t)
	var open []interface{ Close() error }
	listen := func(proto, addr string) {
		l.in(l.node, func() error {
			if proto == "tcp" || proto == "tcp6" {
				s, err := net.Listen(proto, addr)
				open = append(open, s)
				return err
			}
			s, err := net.ListenPacket(proto, addr)
			open = append(open, s)
			return err
		})
	}
	listen("tcp", ":7001")
	listen("udp", node4+":7002")
	listen("tcp", "["+node6+"]:7003")
	listen("tcp", node4+":7004")
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	owner := fmt.Sprintf("process %d (%s) of the host has it", os.Getpid(), strings.TrimSpace(string(comm)))
	for _, port := range []string{"7001:80/tcp", node4 + ":7001:80/tcp", "127.0.0.1:7001:80/tcp", "7002:80/udp", "7003:80/tcp", "7004:80/tcp", node4 + ":7004:80/tcp"} {
		p := l.prepare(port)
		_, err := l.net.Attach(context.Background(), p.Pod)
		if !errors.Is(err, network.ErrPortTaken) || !strings.Contains(err.Error(), owner) {
			t.Errorf("%s: %v", port, err)
		}
		if err := l.net.Detach(context.Background(), p.ID); err != nil {
			t.Error(err)
		}
	}
	p := l.pod("7001:80/udp", "7002:80/tcp", other4+":7004:80/tcp") // none of these meets
	l.serve(p.NetNS, "pod", ":80")
	l.expectTCP(l.outside, other4, "7004", "pod "+out4)
	for _, s := range open {
		s.Close()
	}
	l.pod("7001:80/tcp", "7002:80/udp")
}

// A connection that happens to have the port as its local one is no reason.
func TestPortOfAConnection(t *testing.T) {
	l := newLab(t)
	l.serve(l.outside, "world", ":82")
	for _, proto := range []string{"tcp", "udp"} {
		var conn net.Conn
		l.in(l.node, func() (err error) {
			conn, err = net.Dial(proto, out4+":82")
			return err
		})
		defer conn.Close()
		_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
		l.pod(port + ":80/" + proto)
	}
}

func TestPortOfAnotherInstance(t *testing.T) {
	l := newLab(t)
	theirs := l.pod("8080:80/tcp", node4+":8081:80/tcp")
	first := l.net
	l.cfg = Config{Instance: "cri-box-2", StateDir: t.TempDir()}
	l.open()
	for _, port := range []string{"8080:90/tcp", node4 + ":8080:80/tcp", "8081:80/tcp"} {
		p := l.prepare(port)
		_, err := l.net.Attach(context.Background(), p.Pod)
		if !errors.Is(err, network.ErrPortTaken) || !strings.Contains(err.Error(), "pod "+theirs.ID[:12]+" of instance cri-box has it") {
			t.Errorf("%s: %v", port, err)
		}
		if err := l.net.Detach(context.Background(), p.ID); err != nil {
			t.Error(err)
		}
	}
	l.pod("8080:80/udp", other4+":8081:80/tcp")
	if err := first.Detach(context.Background(), theirs.ID); err != nil {
		t.Fatal(err)
	}
	l.pod("8080:80/tcp")
}

func TestPodsWhoseIDsBeginAlike(t *testing.T) {
	l := newLab(t)
	first, second := l.pod(), l.prepare()
	second.ID = first.ID[:8] + strings.Repeat("f", 56)
	if _, err := l.net.Attach(context.Background(), second.Pod); err == nil || !strings.Contains(err.Error(), "default/web-1") {
		t.Error(err)
	}
	if err := l.net.Detach(context.Background(), second.ID); err != nil {
		t.Fatal(err)
	}
	l.serve(first.NetNS, "first", ":80")
	l.expect(l.node, first.v4, "80", "first "+node4)
}

// A pod that did not get its port has it at no time, also before it is detached and
// whoever has the table written anew.
func TestRefusedPortIsNotPublished(t *testing.T) {
	l := newLab(t)
	l.serve(l.node, "host", ":7001")
	p := l.prepare("7001:80/tcp")
	if _, err := l.net.Attach(context.Background(), p.Pod); !errors.Is(err, network.ErrPortTaken) {
		t.Fatal(err)
	}
	l.in(l.node, func() error { return l.edit(func(c *nftables.Conn) { c.FlushRuleset() }) })
	l.pod()
	l.expectTCP(l.outside, node4, "7001", "host "+out4)
	if err := l.net.Detach(context.Background(), p.ID); err != nil {
		t.Error(err)
	}
}
