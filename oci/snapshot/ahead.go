package snapshot

import (
	"io"
	"sync"
)

const (
	aheadBlock  = 256 << 10 // bytes in one block
	aheadBlocks = 4         // blocks in flight: 1 MiB for each stage
)

var aheadPool = sync.Pool{New: func() any { b := make([]byte, aheadBlock); return &b }}

// Ahead reads from another reader in a goroutine of its own, some blocks ahead,
// so that two stages of a pipe (download and inflate, inflate and write) work at
// the same time.
type Ahead struct {
	full    chan aheadRead
	free    chan *[]byte
	stop    chan struct{}
	stopped chan struct{}
	block   *[]byte // being read from
	rest    []byte  // of block
	err     error   // after rest
	closed  bool
}

type aheadRead struct {
	block *[]byte
	n     int
	err   error
}

// NewAhead starts reading from r. The caller ends the goroutine with Close.
func NewAhead(r io.Reader) *Ahead {
	a := &Ahead{
		full:    make(chan aheadRead, aheadBlocks),
		free:    make(chan *[]byte, aheadBlocks),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	for range aheadBlocks {
		a.free <- aheadPool.Get().(*[]byte)
	}
	go a.fill(r)
	return a
}

func (a *Ahead) fill(r io.Reader) {
	defer close(a.stopped)
	for {
		var block *[]byte
		select {
		case block = <-a.free:
		case <-a.stop:
			return
		}
		n, err := a.fillBlock(r, *block)
		a.full <- aheadRead{block, n, err} // never blocks: as many places as blocks
		if err != nil {
			return
		}
	}
}

// fillBlock reads until the block is full, r ends or nobody wants it any more.
func (a *Ahead) fillBlock(r io.Reader, block []byte) (n int, err error) {
	for n < len(block) && err == nil {
		select {
		case <-a.stop:
			return n, io.ErrClosedPipe
		default:
		}
		var m int
		m, err = r.Read(block[n:])
		n += m
	}
	return n, err
}

// Read returns the bytes of the reader behind, then its error.
func (a *Ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		a.recycle()
		got := <-a.full
		a.block, a.rest, a.err = got.block, (*got.block)[:got.n], got.err
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

func (a *Ahead) recycle() {
	if a.block != nil {
		a.free <- a.block
		a.block = nil
	}
}

// Close ends the goroutine and waits for it. One read that is under way is not
// interrupted: whoever owns the reader behind bounds it.
func (a *Ahead) Close() {
	if a.closed {
		return
	}
	a.closed = true
	close(a.stop)
	<-a.stopped
	a.recycle()
	for {
		select {
		case b := <-a.free:
			aheadPool.Put(b)
		case got := <-a.full:
			aheadPool.Put(got.block)
		default:
			a.rest, a.err = nil, io.ErrClosedPipe
			return
		}
	}
}
