package image

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// TestSlowRegistryHoldsUpItsOwn: where one registry has all places, and sends nothing,
// an image of another comes all the same, also one of the same layers.
func TestSlowRegistryHoldsUpItsOwn(t *testing.T) {
	l := newLab(t, func(c *Config) { c.MaxConcurrentLayers = 2 })
	other, host := serve(t)
	open := make(chan struct{})
	b := imagetest.New()
	for i := range 3 {
		b = b.Layer().File("/f", 0o644, []byte(fmt.Sprint(i)))
	}
	built := b.Build()
	l.reg.Push("app", "1", built)
	for _, layer := range built.Manifest.Layers {
		data := built.Blob(layer.Digest)
		l.reg.Break(imagetest.Fault{Path: layer.Digest.String(), Do: func(w http.ResponseWriter, _ *http.Request) {
			<-open
			_, _ = w.Write(data)
		}})
	}
	other.Push("app", "1", imagetest.New().File("/g", 0o644, []byte("other")).Build())
	other.Push("same", "1", built)
	slow := make(chan error, 1)
	go func() {
		_, err := l.Pull(t.Context(), l.ref("app:1"), nil, nil)
		slow <- err
	}()
	asked := func() (n int) {
		for _, layer := range built.Manifest.Layers {
			n += len(l.reg.Requests(layer.Digest.String()))
		}
		return n
	}
	waitFor(t, func() bool { return asked() == 2 })
	for _, name := range []string{"/app:1", "/same:1"} {
		within(t, 20*time.Second, "a pull from another registry", func(ctx context.Context) {
			if _, err := l.Pull(ctx, host+name, nil, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	if n := asked(); n != 2 {
		t.Errorf("the slow one has %d places", n)
	}
	close(open)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}
