package keeper

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dyingKeeper is a keeper that keeps two pods and dies when it has told of one.
func dyingKeeper(t *testing.T, socket string) {
	t.Helper()
	listener, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer unix.Close(listener)
		defer null.Close()
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		c, err := newConn(fd, maxMessage, maxRights)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.close()
		for {
			m, _, err := c.receive()
			if err != nil {
				t.Errorf("the daemon is gone: %v", err)
				return
			}
			if m.Verb == verbHello {
				send(fd, &message{Seq: m.Seq, Version: Version, PID: os.Getpid()}, nil)
				continue
			}
			send(fd, &message{Seq: m.Seq, Verb: verbList, Item: &Item{ID: "told", Kind: KindPod, Names: []string{"net"}}}, []int{int(null.Fd())})
			return
		}
	}()
}

// TestKeeperDiesWhileItTells: a daemon that starts takes what a dying keeper had
// told by then, and hands it to the next.
func TestKeeperDiesWhileItTells(t *testing.T) {
	f := &fixture{t: t, exits: map[string]chan Item{}, dir: t.TempDir()}
	dyingKeeper(t, filepath.Join(f.dir, "k.sock"))
	f.dial()
	f.Client.Close() // this daemon dies too: what it was told must be with the next keeper
	f.dial()
	items := f.Items()
	if len(items) != 1 || items[0].ID != "told" || items[0].FDs["net"] == nil {
		t.Errorf("kept are %+v", items)
	}
	f.Release(context.Background(), "told")
	f.StopKeeper(context.Background())
}

// TestKeeperHangsWhileItTells: the wait for a list has an end of its own.
func TestKeeperHangsWhileItTells(t *testing.T) {
	f := start(t)
	f.halt(f.PID())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	l := f.current()
	if err := f.takeAll(ctx, l); err == nil {
		t.Error("a stopped keeper answered")
	}
	unix.Kill(f.PID(), unix.SIGCONT)
}
