package cni

import (
	"bytes"
	"sync"
)

// limited keeps the first max bytes written to it, and calls full once when more
// come. Writing never fails, so that a plugin is not killed by SIGPIPE.
type limited struct {
	max  int
	full func()

	mu   sync.Mutex
	buf  bytes.Buffer
	once sync.Once
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	room := l.max - l.buf.Len()
	l.buf.Write(p[:min(room, len(p))])
	if len(p) > room {
		l.once.Do(l.full)
	}
	return len(p), nil
}

// bytes returns a copy: a writer may outlive the wait for it.
func (l *limited) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf.Bytes())
}
