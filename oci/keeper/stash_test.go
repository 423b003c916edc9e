package keeper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A scene is a pump as a keeper has it, with files that outlive it.
type scene struct {
	t          *testing.T
	stash, log string
	r, w       *os.File
}

func newScene(t *testing.T) *scene {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	dir := t.TempDir()
	return &scene{t, filepath.Join(dir, "stash"), filepath.Join(dir, "log"), r, w}
}

// pump is a new keeper's, after it has settled what the one before left.
func (s *scene) pump() *pump {
	s.t.Helper()
	f, err := os.OpenFile(s.stash, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Close(); log.Close() })
	st, err := openStash(f)
	if err == nil {
		err = st.settle(log)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return &pump{logger: newLogger(&Log{MaxLine: 100}, log), stream: FDStdout, stash: st}
}

// output is what the log has, without what the keeper adds.
func (s *scene) output() string {
	s.t.Helper()
	b, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) != 4 {
			s.t.Fatalf("a torn line: %q", line)
		}
		if parts[2] == "P" {
			parts[3] = strings.TrimSuffix(parts[3], "\n")
		}
		out.WriteString(parts[3])
	}
	return out.String()
}

func (s *scene) say(text string, p *pump) {
	s.t.Helper()
	if _, err := s.w.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
	n, err := p.stash.fill(int(s.r.Fd()))
	if err != nil || n != len(text) {
		s.t.Fatalf("filled %d of %d: %v", n, len(text), err)
	}
}

func (s *scene) logAll(p *pump, eof bool) {
	s.t.Helper()
	if err := p.log(0, eof); err != nil {
		s.t.Fatal(err)
	}
}

// TestDeathAtAnyPoint has a keeper die before and after each of its writes: the
// next one's log is as if nothing had happened.
func TestDeathAtAnyPoint(t *testing.T) {
	const text = "one\ntwo\nunfin"
	lines, count := format(nil, FDStdout, []byte(text), 100, false)
	for name, dies := range map[string]func(p *pump){
		"filled":       func(p *pump) {},
		"begun":        func(p *pump) { p.stash.begin(p.file, len(lines), count) },
		"half written": func(p *pump) { p.stash.begin(p.file, len(lines), count); p.append(lines[:len(lines)/2]) },
		"written":      func(p *pump) { p.stash.begin(p.file, len(lines), count); p.append(lines) },
		"done":         func(p *pump) { p.write(lines, p.stash, count); p.stash.done(count) },
		"done, no room": func(p *pump) {
			p.write(lines, p.stash, count)
			p.stash.done(count)
			p.spill(os.ErrInvalid)
			p.log(0, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			first := s.pump()
			s.say("before\n", first)
			s.logAll(first, false)
			s.say(text, first)
			dies(first)
			second := s.pump()
			s.logAll(second, false)
			if name != "done, no room" {
				s.say("ished\n", second)
			}
			s.logAll(second, true)
			want := "before\none\ntwo\nunfinished\n"
			if name == "done, no room" {
				want = "before\none\ntwo\nunfin\n"
			}
			if got := s.output(); got != want {
				t.Errorf("log has %q, want %q", got, want)
			}
		})
	}
}

// TestDeathWhileRoomIsGivenBack: between the writes by which what is logged is cut
// off, also where an unfinished line stays.
func TestDeathWhileRoomIsGivenBack(t *testing.T) {
	line := strings.Repeat("x", 99) + "\n"
	for name, dies := range map[string]func(s *stash){
		"truncated": func(s *stash) { s.f.Truncate(headSize) },
		"moved":     func(s *stash) { rest, _ := s.unlogged(nil); s.f.WriteAt(rest, headSize) },
		"moved and headed": func(s *stash) {
			rest, _ := s.unlogged(nil)
			s.f.WriteAt(rest, headSize)
			s.head.logged, s.head.end = headSize, int64(headSize+len(rest))
			s.save()
		},
		"compacted": func(s *stash) { s.compact() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			p := s.pump()
			var want bytes.Buffer
			rest := "unfin"
			if name == "truncated" {
				rest = ""
			}
			for range 20 {
				s.say(strings.Repeat(line, 300)+rest, p)
				want.WriteString(strings.Repeat(line, 300) + rest)
				in, _ := p.stash.unlogged(nil)
				out, count := format(nil, FDStdout, in, 100, false)
				p.write(out, p.stash, count)
				p.stash.head.logged, p.stash.head.batch = p.stash.head.logged+int64(count), batch{}
				p.stash.save() // as done does, but no room is given back
			}
			dies(p.stash)
			second := s.pump()
			s.logAll(second, true)
			if got := s.output(); strings.ReplaceAll(got, "\n", "") != strings.ReplaceAll(want.String(), "\n", "") {
				t.Errorf("the log has %d bytes, want %d", len(got), want.Len())
			}
		})
	}
}

// TestStashStaysSmall: a container that writes for ever, never ending a chunk with
// a line, has a stash of a bounded size, and one that is silent has a page.
func TestStashStaysSmall(t *testing.T) {
	s := newScene(t)
	p := s.pump()
	var want int
	var largest int64
	for i := range 2000 {
		text := fmt.Sprintf("%d%s\nunfinished", i, strings.Repeat("y", 900))
		s.say(text, p)
		s.logAll(p, false)
		want += len(text)
		st, err := p.stash.f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, st.Size())
	}
	if largest > compactAt+2*chunk {
		t.Errorf("the stash grew to %d bytes", largest)
	}
	s.say("\n", p)
	s.logAll(p, false)
	if st, _ := p.stash.f.Stat(); st.Size() != headSize {
		t.Errorf("a stash with nothing in it has %d bytes", st.Size())
	}
	if got := strings.ReplaceAll(s.output(), "\n", ""); len(got) != want-2000 {
		t.Errorf("%d bytes are in the log, want %d", len(got), want-2000)
	}
}

// BenchmarkPump is what a keeper does for a container that writes lines of 80
// bytes as fast as it can.
func BenchmarkPump(b *testing.B) {
	dir := b.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "stash"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	s, err := openStash(f)
	if err != nil {
		b.Fatal(err)
	}
	l := newLogger(&Log{MaxLine: 16 << 10}, log)
	lines := []byte(strings.Repeat(strings.Repeat("z", 79)+"\n", 800))
	b.SetBytes(int64(len(lines)))
	l.pumps.Add(1)
	go l.pumpPipe(FDStdout, r, s)
	for b.Loop() {
		if _, err := w.Write(lines); err != nil {
			b.Fatal(err)
		}
	}
	w.Close()
	l.pumps.Wait()
}
