package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A notifier is the systemd end of sd_notify(3).
type notifier struct {
	conn *net.UnixConn
	path string
}

// listenNotify makes the socket in dir. By path: an abstract one would belong
// to a network namespace.
func listenNotify(dir string) (*notifier, error) {
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen for readiness: %w", err)
	}
	return &notifier{conn, path}, nil
}

// Close takes the socket away.
func (n *notifier) Close() error {
	os.Remove(n.path)
	return n.conn.Close()
}

// wait returns when READY=1 has arrived, or fails when the process has ended or
// the time is over.
func (n *notifier) wait(ended <-chan struct{}, timeout time.Duration) error {
	ready := make(chan error, 1)
	n.conn.SetReadDeadline(time.Now().Add(timeout))
	go func() { ready <- n.read() }()
	select {
	case err := <-ready:
		return err
	case <-ended:
		n.conn.SetReadDeadline(time.Now())
		if err := <-ready; err == nil {
			return nil // both: it was ready first
		}
		return fmt.Errorf("it ended before it was ready")
	}
}

func (n *notifier) read() error {
	buf := make([]byte, 4096)
	for {
		size, err := n.conn.Read(buf)
		if err != nil {
			return fmt.Errorf("no READY=1: %w", err)
		}
		for _, line := range strings.Split(string(buf[:size]), "\n") {
			if line == "READY=1" {
				return nil
			}
		}
	}
}
