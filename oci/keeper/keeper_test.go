package keeper

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/program"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if slices.Contains([]string{RoleKeeper, RoleSpawner, RoleTrial}, os.Args[1]) {
			exit(RunRole(os.Args[1:]))
		}
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// command is a program that runs argv on the host with standard streams.
func command(argv ...string) *program.Program {
	p := program.New("command " + argv[0])
	add := func(nr uintptr, why string, args ...program.Arg) {
		op := program.Op{Nr: nr, Why: why}
		copy(op.Args[:], args)
		p.Add(op)
	}
	add(unix.SYS_RT_SIGPROCMASK, "unblock signals", program.Int(unix.SIG_SETMASK), p.Bytes(make([]byte, 8), "{}"), program.Null(), program.Int(8))
	add(unix.SYS_DUP3, "set stdin", p.FD("stdin"), program.Int(0), program.Int(0))
	add(unix.SYS_DUP3, "set stdout", p.FD("stdout"), program.Int(1), program.Int(0))
	add(unix.SYS_DUP3, "set stderr", p.FD("stderr"), program.Int(2), program.Int(0))
	add(unix.SYS_EXECVE, "execute "+argv[0], p.Str(argv[0]), p.Vec(argv, "argv"), p.Vec([]string{"PATH=/bin:/usr/bin"}, "env"))
	return p
}

type fixture struct {
	*Client
	t     testing.TB
	mu    sync.Mutex
	exits map[string]chan Item
	dir   string
}

func start(t testing.TB) *fixture {
	f := &fixture{t: t, exits: map[string]chan Item{}, dir: t.TempDir()}
	f.dial()
	t.Cleanup(func() {
		for _, k := range f.Items() {
			if p := k.FDs[FDPid]; p != nil {
				unix.PidfdSendSignal(int(p.Fd()), unix.SIGKILL, nil, 0)
			}
			f.Release(context.Background(), k.ID)
		}
		if err := f.StopKeeper(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
		if log, _ := os.ReadFile(filepath.Join(f.dir, "keeper.log")); len(log) > 0 {
			t.Logf("keeper said: %s", log)
		}
	})
	return f
}

func (f *fixture) dial() {
	f.t.Helper()
	c, err := Dial(context.Background(), Config{Socket: filepath.Join(f.dir, "k.sock"), LogPath: filepath.Join(f.dir, "keeper.log"),
		Binary: os.Executable})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(f.dir, "keeper.log"))
		f.t.Fatalf("%v\n%s", err, log)
	}
	f.take(c)
}

// take makes c the fixture's. An exit may be told twice.
func (f *fixture) take(c *Client) {
	f.Client = c
	c.Notify(func(i Item) {
		select {
		case f.exit(i.ID) <- i:
		default:
		}
	})
}

func (f *fixture) exit(id string) chan Item {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.exits[id] == nil {
		f.exits[id] = make(chan Item, 1)
	}
	return f.exits[id]
}

func (f *fixture) wait(id string) Exit {
	f.t.Helper()
	select {
	case i := <-f.exit(id):
		return *i.Exit
	case <-time.After(20 * time.Second):
		f.t.Fatalf("%s does not exit", id)
		return Exit{}
	}
}

// fifo returns a container's end, opened O_RDWR, and the reader's.
func (f *fixture) fifo(name string) (inside, outside *os.File) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		f.t.Fatal(err)
	}
	inside, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return inside, os.NewFile(uintptr(fd), name)
}

// run starts argv as container id, logging to <id>.log.
func (f *fixture) run(id string, argv ...string) int {
	f.t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer null.Close()
	in, out := f.fifo(id + ".out")
	defer in.Close()
	log, err := os.OpenFile(f.logPath(id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		f.t.Fatal(err)
	}
	stash, err := os.OpenFile(filepath.Join(f.dir, id+".stash"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	pid, err := f.Spawn(context.Background(), Spawn{
		Item: Item{ID: id, Kind: KindContainer, Log: &Log{MaxLine: 100}}, Program: command(argv...),
		FDs:  map[string]*os.File{"stdin": null, "stdout": in, "stderr": in},
		Keep: map[string]*os.File{FDStdout: out, FDLog: log, FDStashOut: stash},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return pid
}

func (f *fixture) logPath(id string) string { return filepath.Join(f.dir, id+".log") }

func (f *fixture) logLines(id string) []string {
	f.t.Helper()
	file, err := os.Open(f.logPath(id))
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	var lines []string
	for r := bufio.NewReader(file); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			break
		}
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if _, err := time.Parse(time.RFC3339Nano, parts[0]); err != nil || len(parts) != 3 {
			f.t.Fatalf("not a log line: %q", line)
		}
		lines = append(lines, parts[1]+" "+parts[2])
	}
	return lines
}

// gate is a FIFO at which a script waits until the test writes to it.
func (f *fixture) gate() *os.File {
	f.t.Helper()
	inside, outside := f.fifo("gate")
	outside.Close()
	f.t.Cleanup(func() { inside.Close() })
	return inside
}

func TestExitCodesAndLogs(t *testing.T) {
	f := start(t)
	for _, c := range []struct {
		id, script string
		code, sig  int
		lines      []string
	}{
		{"ok", "echo one; echo two", 0, 0, []string{"stdout F one", "stdout F two"}},
		{"seven", "printf 'no newline'; exit 7", 7, 0, []string{"stdout F no newline"}},
		{"killed", "kill -9 $$", 137, 9, nil},
		{"segv", "kill -11 $$", 139, 11, nil},
		{"long", "printf '%0250d\\n' 1", 0, 0, []string{"stdout P " + strings.Repeat("0", 100), "stdout P " + strings.Repeat("0", 100), "stdout F " + strings.Repeat("0", 49) + "1"}},
		{"parts", "printf a; printf b; printf 'c\\r\\n'", 0, 0, []string{"stdout F abc\r"}},
	} {
		t.Run(c.id, func(t *testing.T) {
			f.run(c.id, "/bin/sh", "-c", c.script)
			if e := f.wait(c.id); e.Code != c.code || e.Signal != c.sig || e.Unknown != "" {
				t.Errorf("exit %+v, want %d, signal %d", e, c.code, c.sig)
			}
			if got := f.logLines(c.id); strings.Join(got, "\n") != strings.Join(c.lines, "\n") {
				t.Errorf("log %q, want %q", got, c.lines)
			}
		})
	}
}

func TestManyLines(t *testing.T) {
	f := start(t)
	const n = 50000
	f.run("many", "/bin/sh", "-c", "i=0; while [ $i -lt "+strconv.Itoa(n)+" ]; do echo $i 0123456789012345678901234567890123456789; i=$((i+1)); done")
	if e := f.wait("many"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	lines := f.logLines("many")
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, "stdout F "+strconv.Itoa(i)+" 0123") {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

func TestFailedCallIsNamed(t *testing.T) {
	f := start(t)
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	defer null.Close()
	fds := map[string]*os.File{"stdin": null, "stdout": null, "stderr": null}
	_, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: "x", Kind: KindExec}, Program: command("/no/such/program"), FDs: fds})
	var call *CallError
	if !errors.As(err, &call) || call.Errno != syscall.ENOENT || call.Why != "execute /no/such/program" {
		t.Fatalf("error %v", err)
	}
	if n := len(f.Items()); n != 0 {
		t.Errorf("%d items are kept after a failed start", n)
	}
}

func TestStuckCallIsNamed(t *testing.T) {
	f := start(t)
	// A FIFO without a writer never opens.
	path := filepath.Join(f.dir, "never")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	p := program.New("opener of a dead volume")
	p.Add(program.Op{Nr: unix.SYS_RT_SIGPROCMASK, Why: "unblock signals", Args: [6]program.Arg{program.Int(unix.SIG_SETMASK), p.Bytes(make([]byte, 8), "{}"), program.Null(), program.Int(8)}})
	p.Add(program.Op{Nr: unix.SYS_OPENAT, Why: "open " + path, Args: [6]program.Arg{program.Int(unix.AT_FDCWD), p.Str(path), program.Int(unix.O_RDONLY)}})
	_, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: "x", Kind: KindExec}, Program: p, Timeout: time.Second})
	var call *CallError
	if !errors.As(err, &call) || !call.Stuck || call.Why != "open "+path {
		t.Fatalf("error %v", err)
	}
	f.until("the end of what was made", func() bool { return len(zombies(f.PID())) == 0 })
	f.run("after", "/bin/sh", "-c", "exit 3") // the spawner is well
	if e := f.wait("after"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
}

// TestSpawnerDeath: an idle spawner that dies takes nothing along, neither the next
// program nor the process that it made before.
func TestSpawnerDeath(t *testing.T) {
	f := start(t)
	gate := f.gate()
	spawners := f.spawners() // all children so far
	f.run("before", "/bin/sh", "-c", "read x < "+gate.Name()+"; exit 5")
	for _, pid := range spawners {
		unix.Kill(pid, unix.SIGKILL)
	}
	f.run("next", "/bin/sh", "-c", "exit 6")
	if e := f.wait("next"); len(spawners) == 0 || e.Code != 6 {
		t.Errorf("exit after the death of %d spawners: %+v", len(spawners), e)
	}
	gate.WriteString("go\n")
	if e := f.wait("before"); e.Code != 5 {
		t.Errorf("exit of a process whose spawner died later: %+v", e)
	}
	if z := zombies(f.PID()); len(z) > 0 {
		t.Errorf("zombies of the keeper: %v", z)
	}
}

func TestDaemonRestart(t *testing.T) {
	f := start(t)
	gate := f.gate()
	f.run("lives", "/bin/sh", "-c", "read x < "+gate.Name()+"; exit 5")
	f.run("dies", "/bin/sh", "-c", "exit 6")
	f.wait("dies")
	f.Client.Close()
	f.dial()
	items := map[string]Kept{}
	for _, k := range f.Items() {
		items[k.ID] = k
	}
	if e := items["dies"].Exit; e == nil || e.Code != 6 {
		t.Errorf("exit of what ended meanwhile: %+v", e)
	}
	if items["lives"].Exit != nil || items["lives"].FDs[FDPid] == nil {
		t.Errorf("what lives: %+v", items["lives"])
	}
	gate.WriteString("go\n")
	if e := f.wait("lives"); e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
}

func TestKeeperDeath(t *testing.T) {
	f := start(t)
	gate := f.gate()
	pid := f.run("c", "/bin/sh", "-c", "echo before; read x < "+gate.Name()+"; echo after; exit 9")
	old := f.PID()
	lost := f.current().dead
	unix.Kill(old, unix.SIGKILL)
	<-lost
	gate.WriteString("go\n")
	e := f.wait("c")
	if e.Code != 9 {
		t.Errorf("exit of %d after the keeper's death: %+v", pid, e)
	}
	if l, err := f.live(context.Background()); err != nil || l.pid == old {
		t.Errorf("the keeper is the old one: %v", err)
	}
	if got := f.logLines("c"); !slices.Equal(got, []string{"stdout F before", "stdout F after"}) {
		t.Errorf("log %q", got)
	}
}

// 10,000 spawns at once: none hangs, none is lost, each code is right.
func TestConcurrentSpawns(t *testing.T) {
	t.Setenv("GOGC", "1") // of keeper and spawner
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	f := start(t)
	const n = 10000
	var wg sync.WaitGroup
	limit := make(chan struct{}, 64) // descriptors of memfds in flight
	for i := range n {
		wg.Add(1)
		limit <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-limit }()
			id := "n" + string(rune('a'+i%26)) + strconv.Itoa(i)
			argv := []string{"/bin/false"}
			want := 1
			if i%3 == 0 {
				argv, want = []string{"/bin/true"}, 0
			}
			if i%3 == 1 {
				argv = []string{"/nowhere"}
			}
			ch := f.exit(id)
			null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			fds := map[string]*os.File{"stdin": null, "stdout": null, "stderr": null}
			_, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: id, Kind: KindExec}, Program: command(argv...), FDs: fds})
			if i%3 == 1 {
				if !errors.Is(err, syscall.ENOENT) {
					t.Errorf("spawn of nothing: %v", err)
				}
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			if e := *(<-ch).Exit; e.Code != want || e.Unknown != "" {
				t.Errorf("%s: exit %+v, want %d", id, e, want)
			}
		}()
	}
	wg.Wait()
	if k := f.Items(); len(k) != 0 {
		t.Errorf("%d items are left", len(k))
	}
	runtime.GC()
}

// A spawner does not grow with what the keeper keeps: not in descriptors, not in
// memory. So a clone, which copies both or their tables, costs the same.
func TestSpawnerStaysSmall(t *testing.T) {
	f := start(t)
	f.run("first", "/bin/true")
	f.wait("first")
	f.holdPods(500)
	f.run("last", "/bin/true")
	f.wait("last")
	for _, pid := range f.spawners() {
		fds, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		if len(fds) > 20 {
			t.Errorf("spawner %d has %d descriptors, at most 20", pid, len(fds))
		}
		if kb := f.anon(pid); kb > spawnerKiB {
			t.Errorf("spawner %d has %d KiB of its own, at most %d", pid, kb, spawnerKiB)
		}
	}
}

// holdPods has the keeper hold n pods of three descriptors each.
func (f *fixture) holdPods(n int) {
	f.t.Helper()
	for i := range n {
		files := map[string]*os.File{}
		for _, name := range []string{"net", "ipc", "uts"} {
			ns, err := os.Open("/proc/self/ns/" + name)
			if err != nil {
				f.t.Fatal(err)
			}
			files[name] = ns
		}
		if err := f.Hold(context.Background(), "pod"+strconv.Itoa(i), files); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) spawners() []int {
	f.t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(f.PID()) + "/task/*/children")
	if err != nil {
		f.t.Fatal(err)
	}
	var pids []int
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, field := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				f.t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	if len(pids) == 0 {
		f.t.Fatal("the keeper has no spawner")
	}
	return pids
}

// anon is a process's private memory in KiB, RssAnon of proc(5).
func (f *fixture) anon(pid int) int {
	f.t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		f.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		f.t.Fatal(err)
	}
	return kb
}

// BenchmarkSpawn is a whole spawn of /bin/true to its reported exit, with nothing
// kept and with 500 pods in turn; ratio is that of the medians.
func BenchmarkSpawn(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	pods := []int{0, 500}
	keepers := []*fixture{start(b), start(b)}
	for n, f := range keepers {
		f.holdPods(pods[n])
	}
	took := make([][]time.Duration, len(keepers))
	for i := 0; b.Loop(); i++ {
		for n, f := range keepers {
			began := time.Now()
			f.spawnTrue(strconv.Itoa(i), null)
			took[n] = append(took[n], time.Since(began))
		}
	}
	for n := range keepers {
		slices.Sort(took[n])
		b.ReportMetric(float64(median(took[n]).Microseconds()), strconv.Itoa(pods[n])+"pods-µs")
	}
	b.ReportMetric(float64(median(took[1]))/float64(median(took[0])), "ratio")
}

func median(sorted []time.Duration) time.Duration { return sorted[len(sorted)/2] }

func (f *fixture) spawnTrue(id string, null *os.File) {
	f.t.Helper()
	ch := f.exit(id)
	fds := map[string]*os.File{"stdin": null, "stdout": null, "stderr": null}
	if _, err := f.Spawn(context.Background(), Spawn{Item: Item{ID: id, Kind: KindExec}, Program: command("/bin/true"), FDs: fds}); err != nil {
		f.t.Fatal(err)
	}
	<-ch
}
