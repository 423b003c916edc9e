package cgroup

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// A bus answers as systemd does on D-Bus, and notes what it was told.
type bus struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	told  []string // method and unit
	// start, if not nil, is called before a scope is answered for.
	start func()
}

// newBus is where this process looks for systemd during the test.
func newBus(t *testing.T) *bus {
	file := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	b := &bus{Listener: l}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+file)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			go b.talk(c)
		}
	}()
	return b
}

// talk is the authentication of the D-Bus specification, and then calls.
func (b *bus) talk(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		answer := "REJECTED EXTERNAL\r\n"
		switch {
		case err != nil:
			return
		case strings.HasPrefix(line, "BEGIN"):
			b.serve(c, in)
			return
		case strings.HasPrefix(line, "NEGOTIATE"):
			answer = "ERROR\r\n"
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			answer = "OK 0123456789abcdef0123456789abcdef\r\n"
		}
		if _, err := c.Write([]byte(answer)); err != nil {
			return
		}
	}
}

const job = godbus.ObjectPath("/org/freedesktop/systemd1/job/1")

func (b *bus) serve(c net.Conn, in *bufio.Reader) {
	for {
		call, err := godbus.DecodeMessage(in)
		if err != nil {
			return
		}
		method := call.Headers[godbus.FieldMember].Value().(string)
		var body []any
		switch method {
		case "Hello":
			body = []any{":1.1"}
		case "Get":
			body = []any{godbus.MakeVariant("")}
		case "StartTransientUnit", "StopUnit":
			body = []any{job}
		}
		if method == "StartTransientUnit" && b.start != nil {
			b.start()
		}
		b.mu.Lock()
		b.send(c, godbus.TypeMethodReply, map[godbus.HeaderField]godbus.Variant{godbus.FieldReplySerial: godbus.MakeVariant(call.Serial())}, body)
		if len(body) > 0 && body[0] == job {
			b.told = append(b.told, method+" "+call.Body[0].(string))
			for _, one := range b.conns {
				b.send(one, godbus.TypeSignal, map[godbus.HeaderField]godbus.Variant{godbus.FieldPath: godbus.MakeVariant(godbus.ObjectPath("/org/freedesktop/systemd1")),
					godbus.FieldInterface: godbus.MakeVariant("org.freedesktop.systemd1.Manager"), godbus.FieldMember: godbus.MakeVariant("JobRemoved")},
					[]any{uint32(1), job, call.Body[0], "done"})
			}
		}
		b.mu.Unlock()
	}
}

// hangUp ends all connections.
func (b *bus) hangUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.Close()
	}
}

func (b *bus) send(c net.Conn, kind godbus.Type, headers map[godbus.HeaderField]godbus.Variant, body []any) {
	m := godbus.Message{Type: kind, Headers: headers, Body: body}
	m.Headers[godbus.FieldSender] = godbus.MakeVariant("org.freedesktop.systemd1")
	if len(body) > 0 {
		m.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(body...))
	}
	m.EncodeTo(c, binary.LittleEndian) // a client that is gone is no concern of the bus
}

// TestUnits: systemd hears of scopes and slices in their order, over one connection,
// and of no container that is gone.
func TestUnits(t *testing.T) {
	b := newBus(t)
	s := &System{Mode: V2, unified: t.TempDir()}
	group := func(name, pid string) string {
		p := "/pod.slice/" + name + ".scope"
		if err := os.MkdirAll(s.unifiedDir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path.Join(s.unifiedDir(p), "cgroup.procs"), []byte(pid+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	s.UseSystemd()
	settled := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if s.Settle(ctx); ctx.Err() != nil {
			t.Fatal("it does not settle")
		}
	}
	for n, pid := range []string{"11", "12", "13"} {
		s.Adopt(group(pid, pid), 11+n)
		settled()
	}
	s.Adopt(group("reused", "99"), 14)
	s.Adopt("/pod.slice/gone.scope", 15)
	if err := os.Mkdir(s.unifiedDir("/pod.slice/left.slice"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.StopSlice("/pod.slice/left.slice")
	settled()
	b.mu.Lock()
	defer b.mu.Unlock()
	want := []string{"StartTransientUnit 11.scope", "StartTransientUnit 12.scope", "StartTransientUnit 13.scope", "StopUnit left.slice"}
	if !slices.Equal(b.told, want) {
		t.Errorf("systemd was told\n%q, wanted\n%q", b.told, want)
	}
	if len(b.conns) != 2 { // one for calls and one for signals
		t.Errorf("there were %d connections", len(b.conns))
	}
	if _, err := os.Stat(s.unifiedDir("/pod.slice/left.slice")); !os.IsNotExist(err) {
		t.Errorf("the slice's directory: %v", err)
	}
}

// TestUpdateWhileSystemdIsTold: what systemd was told, and writes, is older than an
// update that comes meanwhile. That one waits, as long as its context, and stays.
func TestUpdateWhileSystemdIsTold(t *testing.T) {
	b := newBus(t)
	s, c, file := scopeOfFiles(t)
	more := memoryLimit(8 << 20)
	asked, answer := make(chan struct{}), make(chan struct{})
	b.start = func() {
		close(asked)
		<-answer
		os.WriteFile(file, []byte("1048576\n"), 0o600)
	}
	s.UseSystemd()
	s.Adopt(c.Path, 11)
	<-asked
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Update(short, more); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while systemd is told: %v", err)
	}
	close(answer)
	if _, err := c.Update(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	s.Settle(t.Context())
	if text, _ := os.ReadFile(file); strings.TrimSpace(string(text)) != "8388608" {
		t.Errorf("memory.max is %q", text)
	}
}

// TestSystemdIsLate: what it did not answer for in time, and does later, does not undo
// an update that came in between.
func TestSystemdIsLate(t *testing.T) {
	b := newBus(t)
	s, c, file := scopeOfFiles(t)
	asked := make(chan struct{}, 100)
	var asks atomic.Int64
	b.start = func() {
		if asks.Add(1) == 1 {
			b.hangUp()
		}
		asked <- struct{}{}
	}
	s.UseSystemd()
	c.Adopt(11, memoryLimit(1<<20))
	<-asked
	more := memoryLimit(8 << 20)
	if _, err := c.Update(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	c.Adopt(0, more)
	s.Settle(t.Context())
	os.WriteFile(file, []byte("1048576\n"), 0o600) // only now
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Fatal("it is not told again")
	}
	s.Settle(t.Context())
	if text, _ := os.ReadFile(file); strings.TrimSpace(string(text)) != "8388608" {
		t.Errorf("memory.max is %q", text)
	}
}

// scopeOfFiles is a group in a scope, whose files are no kernel's.
func scopeOfFiles(t *testing.T) (s *System, c *Cgroup, memoryMax string) {
	t.Helper()
	cgroups.TestMode = true
	t.Cleanup(func() { cgroups.TestMode = false })
	s = &System{Mode: V2, unified: t.TempDir(), controllers: []string{"memory"}}
	dir := s.unifiedDir("/pod.slice/a.scope")
	for name, text := range map[string]string{"cgroup.procs": "11\n", "cgroup.controllers": "memory\n", "memory.max": "1048576\n", "memory.current": "4096\n", "memory.events": "oom_kill 0\n"} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.Open("/pod.slice/a.scope")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return s, c, path.Join(dir, "memory.max")
}

func memoryLimit(bytes int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &bytes}}
}
