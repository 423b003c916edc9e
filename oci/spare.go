package oci

import (
	"log/slog"
	"os"
	"sync"

	"github.com/cri-box/cri-box/oci/mount"
)

// sparesKept is how many of each spare there are: pods seldom have more containers
// made within the millisecond that another takes.
const sparesKept = 2

// A spare is a mount that every container has one of and that does not depend on
// which it is. A few are made ahead, by a goroutine that ends when there are
// enough; they belong to nobody and end with the process. Each is used once: a
// container that may mount things could make another's writable.
type spare struct {
	make func() (*os.File, error)

	mu      sync.Mutex
	ready   []*os.File
	filling bool
}

// spares are those of a Runtime. The first of each is made when it is needed.
type spares struct{ dev, maskDir, maskFile spare }

func newSpares() *spares {
	return &spares{
		dev:      spare{make: func() (*os.File, error) { return mount.Dev(nil, mount.DevOptions{}) }},
		maskDir:  spare{make: mount.EmptyReadOnlyDir},
		maskFile: spare{make: mount.NullFile},
	}
}

// take gives one, which is the caller's, and has the next made.
func (s *spare) take() (*os.File, error) {
	s.mu.Lock()
	var f *os.File
	if n := len(s.ready); n > 0 {
		f, s.ready = s.ready[n-1], s.ready[:n-1]
	}
	if !s.filling {
		s.filling = true
		go s.fill()
	}
	s.mu.Unlock()
	if f != nil {
		return f, nil
	}
	return s.make()
}

// fill makes one at a time, until there are enough.
func (s *spare) fill() {
	for {
		f, err := s.make()
		if err != nil {
			slog.Warn("cannot make a mount ahead", "err", err) // a container that needs it says so
		}
		s.mu.Lock()
		if err == nil {
			s.ready = append(s.ready, f)
		}
		s.filling = err == nil && len(s.ready) < sparesKept
		more := s.filling
		s.mu.Unlock()
		if !more {
			return
		}
	}
}
