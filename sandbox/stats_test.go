package sandbox

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci"
)

// TestRates: the rate is that since the previous sample, and there is at most one
// a second.
func TestRates(t *testing.T) {
	var r rates
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		after time.Duration
		used  uint64
		want  uint64
	}{
		{2 * time.Second, 1e9, 5e8}, // since the start
		{2500 * time.Millisecond, 2e9, 5e8},
		{3 * time.Second, 2e9, 1e9}, // since the first sample, not the one in between
		{5 * time.Second, 2e9, 0},
		{6 * time.Second, 1e9, 0}, // a counter that went back
		{4 * time.Second, 9e9, 0}, // a clock that went back
	} {
		if got := r.nanoCores("c", start, start.Add(c.after), c.used); got != c.want {
			t.Errorf("after %v: %d, wanted %d", c.after, got, c.want)
		}
	}
	r.forget("c")
	if len(r.last) != 0 {
		t.Error("it is not forgotten")
	}
}

// walks is a disk whose walks the test ends.
type walks struct {
	mu    sync.Mutex
	count map[string]int
	begun chan string
	end   chan oci.DiskUse
}

func newDisks(t *testing.T) (*disks, *walks) {
	w := &walks{count: map[string]int{}, begun: make(chan string, 100), end: make(chan oci.DiskUse, 100)}
	d := &disks{}
	d.init(func(ctx context.Context, id string) (oci.DiskUse, error) {
		w.mu.Lock()
		w.count[id]++
		w.mu.Unlock()
		w.begun <- id
		select {
		case u := <-w.end:
			return u, nil
		case <-ctx.Done():
			return oci.DiskUse{}, ctx.Err()
		}
	}, notCounted)
	t.Cleanup(d.close)
	return d, w
}

// notCounted is a file system that does not count.
func notCounted(string) (oci.DiskUse, bool) { return oci.DiskUse{}, false }

// TestDisksCounted: where the file system counts, that is the answer, at once and
// each time, and nothing is walked.
func TestDisksCounted(t *testing.T) {
	d, bytes := &disks{}, uint64(0)
	d.init(func(context.Context, string) (oci.DiskUse, error) {
		t.Error("it is walked")
		return oci.DiskUse{}, nil
	}, func(string) (oci.DiskUse, bool) { bytes++; return oci.DiskUse{Bytes: bytes}, true })
	for want := range uint64(3) {
		if u := d.use("c"); u == nil || u.Bytes != want+1 {
			t.Errorf("it is %+v, wanted %d bytes", u, want+1)
		}
	}
	d.close()
}

// TestDisks: nobody waits for a walk, a layer is walked once at a time, one after
// the other, and not again while what is known is young.
func TestDisks(t *testing.T) {
	d, w := newDisks(t)
	for range 100 {
		for _, id := range []string{"aaaaaaaaaaaa", "bbbbbbbbbbbb"} {
			if u := d.use(id); u != nil {
				t.Fatalf("known before the walk: %+v", u)
			}
		}
	}
	first := <-w.begun
	select {
	case other := <-w.begun:
		t.Errorf("%s is walked beside %s", other, first)
	default:
	}
	w.end <- oci.DiskUse{At: time.Now(), Bytes: 7}
	second := <-w.begun
	if u := d.use(first); u == nil || u.Bytes != 7 {
		t.Errorf("after its walk: %+v", u)
	}
	d.forget(second) // while it is walked
	w.end <- oci.DiskUse{At: time.Now().Add(-2 * diskAge), Bytes: 8}
	w.end <- oci.DiskUse{At: time.Now().Add(-2 * diskAge), Bytes: 9}
	d.use("cccccccccccc")
	<-w.begun
	d.work.Wait()
	if u := d.use("cccccccccccc"); u == nil || u.Bytes != 9 { // old, and told all the same
		t.Errorf("an old number: %+v", u)
	}
	<-w.begun
	if got := fmt.Sprint(w.count); got != fmt.Sprint(map[string]int{first: 1, second: 1, "cccccccccccc": 2}) {
		t.Errorf("walks: %v", got)
	}
}

// TestDisksSpareTheDisk: what takes long is walked more seldom.
func TestDisksSpareTheDisk(t *testing.T) {
	d, w := newDisks(t)
	d.use("aaaaaaaaaaaa")
	<-w.begun
	w.end <- oci.DiskUse{At: time.Now().Add(-2 * diskAge), Took: 2 * diskAge / diskShare * 2}
	d.work.Wait()
	d.use("aaaaaaaaaaaa")
	d.work.Wait()
	if w.count["aaaaaaaaaaaa"] != 1 {
		t.Error("it is walked again at once")
	}
	d.forget("aaaaaaaaaaaa")
	if d.took != 0 || len(d.known) != 0 {
		t.Errorf("left: %v, %v", d.took, d.known)
	}
}

func TestDisksOfWhatIsGone(t *testing.T) {
	d := &disks{}
	d.init(func(context.Context, string) (oci.DiskUse, error) { return oci.DiskUse{At: time.Now()}, fs.ErrNotExist }, notCounted)
	defer d.close()
	d.use("aaaaaaaaaaaa")
	d.work.Wait()
	if u := d.use("aaaaaaaaaaaa"); u != nil {
		t.Errorf("got %+v", u)
	}
}
