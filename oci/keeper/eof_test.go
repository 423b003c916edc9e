package keeper

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLastWords: what is written right before the last writer goes is read,
// wherever the pump is just then: it shares a CPU with the writer, which
// interrupts it at any point.
func TestLastWords(t *testing.T) {
	const rounds = 200
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	var one unix.CPUSet
	for cpu := 0; one.Count() == 0; cpu++ {
		if cpus.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	writers, left := make(chan int), make(chan int)
	go speak(t, &one, writers)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with us
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Error(err)
		}
		for range rounds {
			left <- hear(t, writers)
		}
		close(writers)
		close(left)
	}()
	lost := 0
	for n := range left {
		lost += n
	}
	if lost > 0 {
		t.Errorf("of %d last words %d were not read", rounds, lost)
	}
}

// speak writes to each pipe and closes it, a moment after it came.
func speak(t *testing.T, cpu *unix.CPUSet, pipes <-chan int) {
	runtime.LockOSThread()
	if err := unix.SchedSetaffinity(0, cpu); err != nil {
		t.Error(err)
	}
	for fd := range pipes {
		unix.Nanosleep(&unix.Timespec{Nsec: int64(100 * time.Microsecond)}, nil)
		unix.Write(fd, []byte("x"))
		unix.Close(fd)
	}
}

// hear pumps a pipe to its end, and says how much was left in it.
func hear(t *testing.T, writers chan<- int) int {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Error(err)
		return 0
	}
	defer unix.Close(fds[0])
	p := &pump{logger: newLogger(&Log{MaxLine: 100}, nil), stream: FDStdout}
	writers <- fds[1]
	for {
		if eof, err := p.once(busy(fds[0])); err != nil || eof {
			n, e := unix.IoctlGetInt(fds[0], unix.TIOCINQ)
			if err != nil || e != nil {
				t.Error(err, e)
			}
			return n
		}
	}
}

// busy is a descriptor that is asked again and again, not when the poller says so.
type busy int

func (fd busy) Read(f func(uintptr) bool) error {
	for !f(uintptr(fd)) {
	}
	return nil
}

func (fd busy) Write(func(uintptr) bool) error { return os.ErrInvalid }
func (fd busy) Control(func(fd uintptr)) error { return os.ErrInvalid }

// TestOutputTakenByAnother: who reads a container's pipe beside the keeper, as
// "cat /proc/1/fd/1" in it does, takes what it gets, and nothing else is lost.
func TestOutputTakenByAnother(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	for _, stashed := range []bool{true, false} {
		p := &pump{logger: newLogger(&Log{MaxLine: 100}, nil), stream: FDStdout}
		if stashed {
			f, err := os.Create(t.TempDir() + "/stash")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if p.stash, err = openStash(f); err != nil {
				t.Fatal(err)
			}
		}
		// It was there when the pump asked, and is not any more.
		if err := p.drain(fds[0]); err != nil {
			t.Errorf("with a stash: %v; the pump ends: %v", stashed, err)
		}
		if stashed && p.stash == nil {
			t.Error("the stash was given up")
		}
	}
}
