package keeper

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A stash is a file that a stream's output passes through on its way from the pipe
// to the log, so that a keeper that is killed at any moment loses no byte and its
// successor writes none twice:
//
//   - splice(2) moves output from the pipe to the end of the stash: the kernel takes
//     out of the pipe what it has put there;
//   - the head says how far the stash is in the log, and, while lines are being
//     written, how long the log was before and how long it will be.
//
// It is a named file in the state directory, which is memory on a node: keeper and
// daemon hold it, and if both die it is found by its name. What is in the log is cut
// off, so that a silent container's stash is a page.
type stash struct {
	f    *os.File
	end  int64 // where the output ends
	head head
}

// A head is the beginning of the file: little endian, 8 bytes each.
type head struct {
	logged int64 // up to where the output is in the log
	end    int64 // where it ends; 0: at the end of the file
	batch  batch // zero: none under way
}

// A batch is lines that are being written to the log.
type batch struct {
	inode      uint64 // the log's
	from, to   int64  // its size before and after
	willLogged int64  // what logged will be then
}

const (
	headSize = 64
	// compactAt is how much of what is logged may stand before an unfinished line.
	compactAt = 512 << 10
	// maxStash is the largest that is believed, in bytes.
	maxStash = 16 << 20
)

// openStash reads what an earlier keeper left in f, which becomes the stash's.
func openStash(f *os.File) (*stash, error) {
	s := &stash{f: f}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot open stash: %w", err)
	}
	s.end = st.Size()
	var b [headSize]byte
	if s.end >= headSize {
		if _, err := f.ReadAt(b[:], 0); err != nil {
			return nil, fmt.Errorf("cannot read stash: %w", err)
		}
	}
	s.head.decode(b[:])
	if e := s.head.end; e >= headSize && e < s.end {
		if err := f.Truncate(e); err != nil {
			return nil, fmt.Errorf("cannot cut stash: %w", err)
		}
		s.end = e
	}
	s.head.end = 0
	s.end = max(s.end, headSize)
	if s.head.logged < headSize || s.head.logged > s.end { // new, or cut when all was logged
		s.head = head{logged: headSize}
	}
	if s.end > maxStash {
		return nil, fmt.Errorf("cannot believe a stash of %d bytes", s.end)
	}
	return s, nil
}

func (h *head) decode(b []byte) {
	le := binary.LittleEndian
	h.logged, h.end = int64(le.Uint64(b)), int64(le.Uint64(b[8:]))
	h.batch = batch{le.Uint64(b[16:]), int64(le.Uint64(b[24:])), int64(le.Uint64(b[32:])), int64(le.Uint64(b[40:]))}
}

func (s *stash) save() error {
	var b [headSize]byte
	le, h := binary.LittleEndian, &s.head
	for i, v := range []uint64{uint64(h.logged), uint64(h.end), h.batch.inode, uint64(h.batch.from), uint64(h.batch.to), uint64(h.batch.willLogged)} {
		le.PutUint64(b[8*i:], v)
	}
	_, err := s.f.WriteAt(b[:], 0)
	return err
}

// settle finds out whether the lines that an earlier keeper was writing when it
// died are in the log. A part of them is cut off. It must be called before anybody
// writes to the log.
func (s *stash) settle(log *os.File) error {
	b := s.head.batch
	s.head.batch = batch{}
	if b.willLogged == 0 || log == nil {
		return s.save()
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(log.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Ino != b.inode:
	case st.Size >= b.to:
		s.head.logged = min(b.willLogged, s.end)
	case st.Size > b.from:
		if err := log.Truncate(b.from); err != nil {
			return err
		}
	}
	return s.save()
}

// fill moves up to a chunk of the pipe's content to the stash and says how much.
func (s *stash) fill(pipe int) (int, error) {
	at := s.end
	n, err := retry(func() (int, error) {
		n, err := unix.Splice(pipe, nil, int(s.f.Fd()), &at, chunk, unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if err != nil {
		return 0, os.NewSyscallError("splice", err)
	}
	s.end += int64(n)
	return n, nil
}

// unlogged reads what is not in the log yet into b, which grows if need be.
func (s *stash) unlogged(b []byte) ([]byte, error) {
	n := int(s.end - s.head.logged)
	if cap(b) < n {
		b = make([]byte, n)
	}
	b = b[:n]
	_, err := s.f.ReadAt(b, s.head.logged)
	return b, err
}

// begin notes that n bytes of lines will be written to the log, and that count
// bytes of output will be logged then.
func (s *stash) begin(log *os.File, n, count int) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(log.Fd()), &st); err != nil {
		return err
	}
	s.head.batch = batch{st.Ino, st.Size, st.Size + int64(n), s.head.logged + int64(count)}
	return s.save()
}

// done notes that count bytes of output are logged, and gives their room back.
func (s *stash) done(count int) error {
	s.head.logged, s.head.batch = s.head.logged+int64(count), batch{}
	switch {
	case s.head.logged == s.end:
		// In this order: a head that points beyond the end stands for nothing.
		if err := s.f.Truncate(headSize); err != nil {
			return err
		}
		s.head.logged, s.end = headSize, headSize
	case s.head.logged > compactAt:
		return s.compact()
	}
	return s.save()
}

// compact moves an unfinished line to the front.
func (s *stash) compact() error {
	if err := s.save(); err != nil { // without the batch
		return err
	}
	rest, err := s.unlogged(nil)
	if err != nil {
		return err
	}
	if _, err := s.f.WriteAt(rest, headSize); err != nil {
		return err
	}
	end := int64(headSize + len(rest))
	s.head.logged, s.head.end = headSize, end
	if err := s.save(); err != nil {
		return err
	}
	if err := s.f.Truncate(end); err != nil {
		return err
	}
	s.end, s.head.end = end, 0
	return s.save()
}

// empty forgets everything: from now on output does not go through the stash.
func (s *stash) empty() error { return s.f.Truncate(0) }
