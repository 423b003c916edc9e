package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cri-box/cri-box/oci/program"
	"golang.org/x/sys/unix"
)

// TestStuckSpawnerEnds: a spawner that waits for a call which does not return ends
// with its keeper, and what it was making does when the call returns.
func TestStuckSpawnerEnds(t *testing.T) {
	f := start(t)
	// A FIFO without a writer never opens.
	path := filepath.Join(f.dir, "never")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	p := program.New("opener of a dead volume")
	p.Add(program.Op{Nr: unix.SYS_OPENAT, Why: "open " + path, Args: [6]program.Arg{program.Int(unix.AT_FDCWD), p.Str(path), program.Int(unix.O_RDONLY)}})
	lost := make(chan error, 1)
	go func() {
		_, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: "x", Kind: KindExec}, Program: p, Timeout: time.Minute})
		lost <- err
	}()
	var ours []int // the spawner that waits, and its child
	f.until("the child of the spawner", func() bool { ours = f.spawners(); return len(ours) > 1 })
	unix.Kill(f.PID(), unix.SIGKILL)
	if err := <-lost; !errors.Is(err, ErrKeeperLost) {
		t.Errorf("error %v", err)
	}
	if _, err := f.live(context.Background()); err != nil {
		t.Error(err)
	}
	f.until("the end of the spawner", func() bool { return len(alive(ours)) == 1 })
	writer, err := os.OpenFile(path, os.O_WRONLY, 0) // the call returns
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	f.until("the end of the child", func() bool { return len(alive(ours)) == 0 })
}

// TestSpawnersOfABurst: programs that come together each get a spawner, and when none
// comes any more all but keepIdle end.
func TestSpawnersOfABurst(t *testing.T) {
	f := start(t)
	path := filepath.Join(f.dir, "later")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	const burst = keepIdle + 3
	done := make(chan error, burst)
	for i := range burst {
		p := program.New("one of a burst") // which waits for the FIFO's writer
		p.Add(program.Op{Nr: unix.SYS_OPENAT, Why: "open " + path, Args: [6]program.Arg{program.Int(unix.AT_FDCWD), p.Str(path), program.Int(unix.O_RDONLY)}})
		go func() {
			_, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: fmt.Sprint("x", i), Kind: KindExec}, Program: p, Timeout: time.Minute})
			done <- err
		}()
	}
	f.until("a spawner for each, and its child", func() bool { return len(f.spawners()) == 2*burst })
	writer, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for range burst {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	f.until("the end of those that nobody wants", func() bool { return len(alive(f.spawners())) == keepIdle })
}

// TestStoppedSpawner: of a program that was given up, for its spawner was stopped,
// nothing stays once the spawner goes on and makes its process after all.
func TestStoppedSpawner(t *testing.T) {
	f := start(t)
	spawners := f.spawners()
	for _, pid := range spawners {
		f.halt(pid)
	}
	made := filepath.Join(f.dir, "made")
	p := program.New("late")
	p.Add(program.Op{Nr: unix.SYS_RT_SIGPROCMASK, Why: "unblock signals", Args: [6]program.Arg{program.Int(unix.SIG_SETMASK), p.Bytes(make([]byte, 8), "{}"), program.Null(), program.Int(8)}})
	p.Add(program.Op{Nr: unix.SYS_MKDIRAT, Why: "make " + made, Args: [6]program.Arg{program.Int(unix.AT_FDCWD), p.Str(made), program.Int(0o700)}})
	p.Add(program.Op{Nr: unix.SYS_EXECVE, Why: "sleep", Args: [6]program.Arg{p.Str("/bin/sleep"), p.Vec([]string{"sleep", "60"}, "argv"), p.Vec(nil, "env")}})
	var call *CallError
	_, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: "x", Kind: KindExec}, Program: p, Timeout: 100 * time.Millisecond})
	if !errors.As(err, &call) || !call.Stuck {
		t.Fatalf("error %v", err)
	}
	f.run("other", "/bin/sh", "-c", "exit 4") // by another spawner
	if e := f.wait("other"); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
	for _, pid := range spawners {
		unix.Kill(pid, unix.SIGCONT)
	}
	f.until("the late process", func() bool { _, err := os.Stat(made); return err == nil })
	f.until("its end", func() bool { return len(alive(f.spawners())) <= keepIdle && len(zombies(f.PID())) == 0 })
}

// halt stops a process. kill(2) returns before its threads have seen that: until
// one takes the signal, another may go on (do_signal_stop in kernel/signal.c).
func (f *fixture) halt(pid int) {
	f.t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
	f.until("the stop", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		stopped := err == nil && len(threads) > 0
		for _, thread := range threads {
			b, _ := os.ReadFile(thread)
			_, rest, _ := strings.Cut(string(b), ") ")
			stopped = stopped && strings.HasPrefix(rest, "T")
		}
		return stopped
	})
}

// until waits for what no event announces.
func (f *fixture) until(what string, cond func() bool) {
	f.t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// alive are those processes that have not ended.
func alive(pids []int) (list []int) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		if err == nil && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X") {
			list = append(list, pid)
		}
	}
	return list
}

// TestAnswersNobodyTakes: a link whose other side sends more answers than somebody
// waits for sees its end all the same.
func TestAnswersNobodyTakes(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLink(pair[0], func(Item) {})
	if err != nil {
		t.Fatal(err)
	}
	ch, end, err := l.begin(&message{Verb: verbList}, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := send(pair[1], &message{Seq: 1, Item: &Item{ID: "x"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	(&fixture{t: t}).until("the first answer", func() bool { return len(ch) == 1 })
	end()
	unix.Close(pair[1])
	select {
	case <-l.dead:
	case <-time.After(20 * time.Second):
		t.Error("the link does not see that the other side is gone")
	}
}

// TestSendWithin: who sends to somebody that takes nothing gives up after its bound,
// and before that goes on as soon as something was taken.
func TestSendWithin(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	c, err := newConn(pair[0], maxMessage, maxRights) // makes pair[0] one that does not block
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for err = nil; err == nil; { // its queue has a limit
		err = sendWithin(time.Millisecond, pair[0], &message{Verb: verbList, Names: []string{strings.Repeat("x", 32<<10)}}, nil)
	}
	if !errors.Is(err, errHung) {
		t.Errorf("error %v, want %v", err, errHung)
	}
	sent := make(chan error, 1)
	go func() { sent <- sendWithin(20*time.Second, pair[0], &message{Verb: verbList}, nil) }()
	if err := drain(pair[1]); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Errorf("error %v after the queue was emptied", err)
	}
}

// drain takes what is in a socket's queue.
func drain(fd int) error {
	for {
		_, _, err := unix.Recvfrom(fd, make([]byte, maxMessage), unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// TestHungOpener: a detached program that hangs, as on a dead volume, does not stay
// for ever: every try to make its container would add one.
func TestHungOpener(t *testing.T) {
	f := start(t)
	never := filepath.Join(f.dir, "never")
	if err := unix.Mkfifo(never, 0o600); err != nil {
		t.Fatal(err)
	}
	p := program.New("opener of a dead volume")
	p.Fork, p.Detached = true, true
	p.Add(program.Op{Nr: unix.SYS_RT_SIGPROCMASK, Why: "unblock signals", Args: [6]program.Arg{program.Int(unix.SIG_SETMASK), p.Bytes(make([]byte, 8), "{}"), program.Null(), program.Int(8)}})
	p.Add(program.Op{Nr: unix.SYS_OPENAT, Why: "open " + never, Args: [6]program.Arg{program.Int(unix.AT_FDCWD), p.Str(never), program.Int(unix.O_RDONLY)}})
	before := len(f.spawners())
	if _, _, err := f.spawn(context.Background(), &message{Verb: verbSpawn, Item: &Item{}}, Spawn{Program: p, Timeout: time.Second}, nil); err != nil {
		t.Fatal(err)
	}
	if len(f.spawners()) == before {
		t.Error("the opener does not hang")
	}
	f.until("its end", func() bool { return len(f.spawners()) == before })
}

// TestSpawnOfNobody: who asked for a process and went away before it was made leaves
// none that nobody knows of, and can ask again.
func TestSpawnOfNobody(t *testing.T) {
	f := start(t)
	gate := filepath.Join(f.dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	p := program.New("late")
	p.Add(program.Op{Nr: unix.SYS_RT_SIGPROCMASK, Why: "unblock signals", Args: [6]program.Arg{program.Int(unix.SIG_SETMASK), p.Bytes(make([]byte, 8), "{}"), program.Null(), program.Int(8)}})
	p.Add(program.Op{Nr: unix.SYS_OPENAT, Why: "open " + gate, Args: [6]program.Arg{program.Int(unix.AT_FDCWD), p.Str(gate), program.Int(unix.O_RDONLY)}})
	p.Add(program.Op{Nr: unix.SYS_EXECVE, Why: "sleep", Args: [6]program.Arg{p.Str("/bin/sleep"), p.Vec([]string{"sleep", "60"}, "argv"), p.Vec(nil, "env")}})
	before := len(f.spawners())
	ctx, cancel := context.WithCancel(context.Background())
	made := make(chan error, 1)
	go func() {
		_, err := f.Spawn(ctx, Spawn{Item: Item{ID: "x", Kind: KindContainer}, Program: p})
		made <- err
	}()
	f.until("the process", func() bool { return len(f.spawners()) > before })
	cancel()
	writer, err := os.OpenFile(gate, os.O_WRONLY, 0) // it goes on
	if err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if err := <-made; err == nil { // then it is the caller's
		pidfd, err := f.FD("x", FDPid)
		if err != nil {
			t.Fatal(err)
		}
		unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
		pidfd.Close()
		f.wait("x")
		f.Release(context.Background(), "x")
	}
	f.until("its end", func() bool { return len(alive(f.spawners())) == before })
	f.run("x", "/bin/sh", "-c", "exit 6")
	if e := f.wait("x"); e.Code != 6 {
		t.Errorf("exit %+v", e)
	}
}

// TestNoNextKeeper: who waits in vain for the next keeper may try again, unless its own
// time is over.
func TestNoNextKeeper(t *testing.T) {
	for own, want := range map[time.Duration]error{time.Hour: errNoNext, time.Second: context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			dead := make(chan struct{})
			close(dead)
			c := &Client{link: &link{dead: dead}, replaced: make(chan struct{}), closing: make(chan struct{})}
			ctx, cancel := context.WithTimeout(t.Context(), own)
			defer cancel()
			_, err := c.live(ctx)
			if !errors.Is(err, ErrKeeperLost) || !errors.Is(err, want) || errors.Is(err, context.DeadlineExceeded) != (want == context.DeadlineExceeded) {
				t.Errorf("with %v to wait: %v, want %v", own, err, want)
			}
		})
	}
}
