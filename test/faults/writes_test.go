package faults_test

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/supervise"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A shortage fails one system call of serve at a time: the first at a point once it
// is armed. A point is a call and what it is about, whichever pod's.
type shortage struct {
	of    *harness.Instance
	mu    sync.Mutex
	seen  []string
	armed string
	errno unix.Errno
	hit   bool
}

// withShortage has s answer for what serve does.
func withShortage(t *testing.T, s *shortage) harness.Option {
	return func(i *harness.Instance) {
		s.of = i
		boss := supervise.New(t, harness.CriBox(t))
		boss.Decide(s.answer)
		i.Build = boss.Program
	}
}

var (
	ids     = regexp.MustCompile(`[0-9a-f]{64}`)
	shorts  = regexp.MustCompile(`[0-9a-f]{12}`)
	numbers = regexp.MustCompile(`[0-9]+`)
)

// point names a call, "" for one that is about no file of ours nor a mount.
func (s *shortage) point(c *supervise.Call) string {
	if c.Name() == "unlinkat" || c.Name() == "syncfs" {
		return "" // takes no space, and no memory that matters
	}
	if c.Nr == unix.SYS_MEMFD_CREATE || c.Nr == unix.SYS_FSOPEN {
		return c.Name() + " " + c.Text(c.Args[0])
	}
	var paths []string
	for _, p := range c.Paths() {
		switch {
		case strings.HasPrefix(p, s.of.Dir+"/"):
			p = strings.TrimPrefix(p, s.of.Dir+"/")
			if p == "serve.log" {
				return "" // a shell would say no more
			}
		case strings.HasPrefix(p, "/sys/fs/cgroup/"), strings.HasPrefix(p, "/run/netns/"), strings.HasPrefix(p, "/proc/sys/"):
		default:
			if supervise.Calls[c.Nr] != "" {
				return "" // a pipe, a socket, another's file
			}
		}
		p = shorts.ReplaceAllString(ids.ReplaceAllString(p, "ID"), "ID")
		paths = append(paths, numbers.ReplaceAllString(p, "N"))
	}
	return strings.Join(append([]string{c.Name()}, paths...), " ")
}

func (s *shortage) answer(c *supervise.Call) supervise.Answer {
	point := s.point(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if point == "" {
		return supervise.GoOn
	}
	if !slices.Contains(s.seen, point) {
		s.seen = append(s.seen, point)
	}
	if point != s.armed {
		return supervise.GoOn
	}
	s.armed, s.hit = "", true
	return supervise.Fail(s.errno)
}

// points takes what has been seen since the last time.
func (s *shortage) points() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.seen
	s.seen = nil
	return list
}

func (s *shortage) arm(point string, errno unix.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed, s.errno, s.hit = point, errno, false
}

// met says whether the point was come to, and disarms it.
func (s *shortage) met() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = ""
	return s.hit
}

// TestEveryWrite: there is no space, or no memory, at each call of a pod's life that
// needs some; what fails works when it is asked for again, and nothing is left. The
// points are the calls that a life makes.
func TestEveryWrite(t *testing.T) {
	t.Parallel()
	s := new(shortage)
	l := newLife(t, withShortage(t, s))
	l.run("") // what is made once is not of a pod's life
	s.points()
	l.run("")
	points := s.points()
	began, met := time.Now(), 0
	for _, point := range points {
		errno := unix.ENOMEM
		if takesSpace(point) {
			errno = unix.ENOSPC
		}
		s.arm(point, errno)
		l.run("")
		l.nothingLeft(point)
		if s.met() {
			met++
		}
	}
	t.Logf("%d of %d points had a shortage: %v", met, len(points), time.Since(began).Round(time.Millisecond))
	if met < 40 {
		t.Errorf("%d points only were come to of %q", met, points)
	}
}

// takesSpace tells whether a call may find a disk full.
func takesSpace(point string) bool {
	name, path, _ := strings.Cut(point, " ")
	return slices.Contains([]string{"openat", "mkdirat", "renameat", "linkat", "symlinkat", "mknodat", "write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync"}, name) &&
		(strings.HasPrefix(path, "root/") || strings.HasPrefix(path, "state/"))
}

// TestFullWhilePulling: the disk is full at each call of a pull that needs space: it
// fails saying so and leaves nothing, and with space the image is there.
func TestFullWhilePulling(t *testing.T) {
	t.Parallel()
	s := new(shortage)
	i := harness.New(t, withShortage(t, s))
	pull := func(n int) error { // each time another, for layers of a failed pull wait for its retry
		data := bytes.Repeat([]byte{byte(n)}, 100_000)
		img := imagetest.New().File("etc/a", 0o644, data).Link("etc/b", "etc/a").Symlink("c", "etc/a").Layer().File("d", 0o644, data[:n+1]).Build()
		_, err := i.Images.PullImage(i.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: i.Push(fmt.Sprint("image", n), img)}})
		return err
	}
	s.points()
	if err := pull(0); err != nil {
		t.Fatal(err)
	}
	points := slices.DeleteFunc(s.points(), func(p string) bool { return !takesSpace(p) })
	for n, point := range points {
		s.arm(point, unix.ENOSPC)
		err := pull(n + 1)
		if met := s.met(); err == nil && met || err != nil && !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("%s: met: %v, error %v", point, met, err)
		}
		if left := names(i.Root+"/incoming") + names(i.Root+"/trash"); left > 0 {
			t.Errorf("%s: %d directories are left", point, left)
		}
		if err := pull(n + 1); err != nil {
			t.Errorf("%s: with space: %v", point, err)
		}
	}
	list, err := i.Images.ListImages(i.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.Images) != len(points)+1 || len(points) < 15 {
		t.Errorf("%d images of %d points %q: %v", len(list.GetImages()), len(points), points, err)
	}
}
