package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// noise is content that does not compress.
func noise(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data)
	return data
}

func pushBig(l *lab) *imagetest.Image {
	built := imagetest.New().File("/big", 0o644, noise(2<<20)).Build()
	l.reg.Push("app", "1", built)
	return built
}

func TestResumeAfterCut(t *testing.T) {
	l := newLab(t)
	built := pushBig(l)
	for range 3 {
		l.reg.Break(imagetest.Fault{Path: "/blobs/" + built.Manifest.Layers[0].Digest.String(), CutAfter: 600_000, Times: 1})
	}
	img := l.pull(t, "app:1")
	if l.content(t, img, "big") != string(noise(2<<20)) {
		t.Error("content is wrong")
	}
	requests := l.reg.Requests("/blobs/" + built.Manifest.Layers[0].Digest.String())
	if len(requests) != 4 {
		t.Fatalf("%d requests: %+v", len(requests), requests)
	}
	for i, r := range requests[1:] {
		if !strings.HasPrefix(r.Range, "bytes=") || strings.HasPrefix(r.Range, "bytes=0") {
			t.Errorf("request %d has range %q: it did not resume", i+1, r.Range)
		}
	}
}

func TestResumeAfterStall(t *testing.T) {
	l := newLab(t, func(c *Config) { c.StallTimeout = 500 * time.Millisecond })
	built := pushBig(l)
	layer := built.Manifest.Layers[0].Digest
	data := built.Blob(layer)
	// Whoever begins anew stalls anew, so that a slow machine's other stalls do not matter.
	l.reg.Break(imagetest.Fault{Path: "/blobs/" + layer.String(), Do: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:500_000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}})
	l.reg.Break(imagetest.Fault{Path: "/manifests/1", StallAfter: -1, Times: 1})
	within(t, 20*time.Second, "a stalled pull", func(ctx context.Context) {
		if _, err := l.Pull(ctx, l.ref("app:1"), nil, nil); err != nil {
			t.Error(err)
		}
	})
	requests := l.reg.Requests("/blobs/" + layer.String())
	if len(requests) < 2 || requests[0].Range != "" || requests[len(requests)-1].Range == "" {
		t.Errorf("requests %+v", requests)
	}
}

func TestStallForEver(t *testing.T) {
	l := newLab(t, func(c *Config) { c.StallTimeout = 20 * time.Millisecond })
	pushBig(l)
	l.reg.Break(imagetest.Fault{Path: "/blobs/", StallAfter: -1})
	within(t, 30*time.Second, "giving up", func(context.Context) {
		err := l.pullError(t, "app:1", nil)
		wantError(t, err, "RegistryUnavailable: cannot pull ", "sends nothing")
	})
}

func TestCutForEver(t *testing.T) {
	l := newLab(t)
	pushBig(l)
	l.reg.Break(imagetest.Fault{Path: "/blobs/", Do: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }})
	within(t, 30*time.Second, "giving up", func(context.Context) {
		l.pullError(t, "app:1", nil)
	})
}

func TestWrongContent(t *testing.T) {
	l := newLab(t)
	built := imagetest.New().File("/f", 0o644, noise(100_000)).Compression(imagetest.Plain).Build()
	l.reg.Push("app", "1", built)
	for path, want := range map[string]string{
		"/blobs/" + built.Manifest.Layers[0].Digest.String(): "digest",
		"/blobs/" + built.Manifest.Config.Digest.String():    "digest",
		"/manifests/" + built.Top.Digest.String():            "digest",
	} {
		l.reg.Break(imagetest.Fault{Method: "GET", Path: path, Corrupt: true})
		wantError(t, l.pullError(t, "app:1", nil), want)
		l.reg.Mend()
	}
	if dirs := l.layerDirs(t); len(dirs) != 0 {
		t.Errorf("layers of a failed pull: %v", dirs)
	}
	l.pull(t, "app:1")
}

// TestWrongDiffID: the blob is what the manifest says, but not what the
// configuration says.
func TestWrongDiffID(t *testing.T) {
	l := newLab(t)
	other := simple("other")
	l.reg.Push("app", "1", other)
	swapped := simple("mine").With(swapLayer(other))
	l.reg.Push("app", "1", swapped)
	wantError(t, l.pullError(t, "app:1", nil), "content has digest")
	if len(l.layerDirs(t)) != 0 {
		t.Error("a wrong layer was kept")
	}
}

func TestUnavailable(t *testing.T) {
	l := newLab(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := listener.Addr().String()
	listener.Close()
	_, err = l.Pull(t.Context(), dead+"/app:1", nil, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "RegistryUnavailable: cannot pull "+dead+"/app:1: ") || !errors.Is(err, ErrRegistryUnavailable) {
		t.Errorf("error %v", err)
	}
	pushBig(l)
	l.reg.Break(imagetest.Fault{Path: "/manifests/", Status: http.StatusBadGateway})
	if err := l.pullError(t, "app:1", nil); !errors.Is(err, ErrRegistryUnavailable) {
		t.Errorf("error %v", err)
	}
}

func TestNotFound(t *testing.T) {
	l := newLab(t)
	built := pushBig(l)
	for _, name := range []string{"app:2", "none:1"} {
		if err := l.pullError(t, name, nil); !errors.Is(err, ErrNotFound) || errors.Is(err, ErrRegistryUnavailable) {
			t.Errorf("error %v", err)
		}
	}
	l.reg.Delete("app", built.Manifest.Layers[0].Digest)
	if err := l.pullError(t, "app:1", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	for _, name := range []string{"app/UPPER", "https://example.org/app"} {
		if _, err := l.Pull(t.Context(), name, nil, nil); !errors.Is(err, ErrInvalidName) || !strings.HasSuffix(err.Error(), "; write [HOST/]NAME[:TAG][@DIGEST]") {
			t.Errorf("error %v", err)
		}
	}
}

func TestTooManyRequests(t *testing.T) {
	l := newLab(t)
	pushBig(l)
	l.reg.Break(imagetest.Fault{Path: "/manifests/", Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"0"}}, Times: 2})
	l.reg.Break(imagetest.Fault{Path: "/blobs/", Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"0"}}, Times: 2})
	l.pull(t, "app:1")
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": time.Second, "5": 5 * time.Second, "9999999": maxRetryAfter, "-3": 0, "soon": time.Second,
		"Fri, 31 Dec 1999 23:59:59 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestRedirect(t *testing.T) {
	l := newLab(t)
	store, storeHost := serve(t) // a blob store behind the registry
	built := pushBig(l)
	store.Push("app", "1", built)
	l.reg.BasicAuth("user", "canary-password")
	l.reg.Break(imagetest.Fault{Path: "/blobs/", Redirect: "http://" + storeHost})
	if _, err := l.Pull(t.Context(), l.ref("app:1"), &Auth{Username: "user", Password: "canary-password"}, nil); err != nil {
		t.Fatal(err)
	}
	requests := store.Requests("")
	if len(requests) == 0 {
		t.Fatal("the redirect was not followed")
	}
	for _, r := range requests {
		if r.Authorization != "" {
			t.Errorf("credentials went to the blob store: %+v", r)
		}
	}
}

// TestRedirectToAnyPath: a blob store's addresses look like anything, and a
// blob is still a blob.
func TestRedirectToAnyPath(t *testing.T) {
	l := newLab(t)
	built := imagetest.New().File("/big", 0o644, noise(maxSmallBody+1000)).Build()
	l.reg.Push("app", "1", built)
	blob := built.Blob(built.Manifest.Layers[0].Digest)
	l.reg.Break(imagetest.Fault{Path: "/bucket/", Do: func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(blob) }})
	l.reg.Break(imagetest.Fault{Path: built.Manifest.Layers[0].Digest.String(), Do: func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/bucket/x?signature=1", http.StatusTemporaryRedirect)
	}})
	l.pull(t, "app:1")
}

// TestRedirectAsksForPassword: who gets a redirected request and asks for
// credentials does not get the registry's.
func TestRedirectAsksForPassword(t *testing.T) {
	l := newLab(t)
	thief, thiefHost := serve(t)
	thief.Push("app", "1", pushBig(l))
	l.reg.BasicAuth("user", "canary-password")
	l.reg.Break(imagetest.Fault{Path: "/blobs/", Redirect: "http://" + thiefHost})
	for _, tokens := range []bool{false, true} {
		thief.BasicAuth("user", "canary-password")
		if tokens {
			thief.TokenAuth("user", "canary-password", "")
		}
		l.pullError(t, "app:1", &Auth{Username: "user", Password: "canary-password"})
	}
	for _, r := range thief.Requests("") {
		if r.Authorization != "" || r.Method == http.MethodPost {
			t.Errorf("credentials went to %s: %+v", thiefHost, r)
		}
	}
	if len(thief.Requests("")) == 0 {
		t.Error("the redirect was not followed: nothing was tested")
	}
}

func TestCancel(t *testing.T) {
	l := newLab(t)
	blob := pushBig(l).Manifest.Layers[0].Digest.String()
	l.reg.Break(imagetest.Fault{Path: blob, StallAfter: 1 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := l.Pull(ctx, l.ref("app:1"), nil, nil)
		done <- err
	}()
	incoming := func() int {
		names, _ := os.ReadDir(filepath.Join(l.config.Root, "incoming"))
		return len(names)
	}
	waitFor(t, func() bool { return incoming() > 0 })
	cancel()
	within(t, 10*time.Second, "cancelling", func(context.Context) {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	// Nothing goes on behind the pull's back.
	if n := incoming(); n > 0 {
		t.Errorf("%d layers are still unpacked", n)
	}
	deadline, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	<-deadline.Done()
	if _, err := l.Pull(deadline, l.ref("app:1"), nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// waitFor waits for what another goroutine is about to do.
func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !what(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// TestPullsShareLayers: one download for many pulls at once, with the same
// credentials; whose first one may give up.
func TestPullsShareLayers(t *testing.T) {
	l := newLab(t)
	built := pushBig(l)
	l.reg.Push("copy", "1", built)
	blob := built.Manifest.Layers[0].Digest.String()
	open := make(chan struct{})
	data := built.Blob(built.Manifest.Layers[0].Digest)
	l.reg.Break(imagetest.Fault{Path: blob, Do: func(w http.ResponseWriter, _ *http.Request) {
		<-open
		_, _ = w.Write(data)
	}})
	first, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Pull(first, l.ref("app:1"), nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	waitFor(t, func() bool { return len(l.reg.Requests(blob)) == 1 })
	for i := range 6 {
		name := []string{"app:1", "copy:1"}[i%2]
		wg.Go(func() {
			if _, err := l.Pull(t.Context(), l.ref(name), nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool { return l.flightUsers() == 7 })
	giveUp()
	waitFor(t, func() bool { return l.flightUsers() == 6 })
	close(open)
	wg.Wait()
	if n := len(l.reg.Requests(blob)); n != 1 {
		t.Errorf("%d downloads", n)
	}
}

// TestLayersAtATime: layers come in parallel, and no more than may be under way,
// over all pulls.
func TestLayersAtATime(t *testing.T) {
	const limit = 3
	l := newLab(t, func(c *Config) { c.MaxConcurrentLayers = limit })
	var mu sync.Mutex
	now, most, begun, layers := 0, 0, 0, map[string]bool{}
	come := func(n int) (all bool) {
		mu.Lock()
		defer mu.Unlock()
		now, begun = now+n, begun+max(n, 0)
		most = max(most, now)
		return now >= limit || begun >= len(layers)
	}
	for i := range 2 {
		b := imagetest.New()
		for j := range 4 {
			b = b.File("/f", 0o644, []byte(fmt.Sprint(i, j))).Layer()
		}
		built := b.Build()
		l.reg.Push("app", fmt.Sprint(i), built)
		for _, layer := range built.Manifest.Layers {
			data := built.Blob(layer.Digest)
			layers[layer.Digest.String()] = true
			l.reg.Break(imagetest.Fault{Path: layer.Digest.String(), Do: func(w http.ResponseWriter, _ *http.Request) {
				come(1)
				defer come(-1)
				// Until the others come too; the last ones have nobody to wait for.
				for end := time.Now().Add(10 * time.Second); !come(0) && time.Now().Before(end); time.Sleep(time.Millisecond) {
				}
				time.Sleep(20 * time.Millisecond) // one too many has time to show
				_, _ = w.Write(data)
			}})
		}
	}
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if _, err := l.Pull(t.Context(), l.ref(fmt.Sprint("app:", i)), nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most != limit {
		t.Errorf("%d layers at a time, wanted %d", most, limit)
	}
}

func (s *Store) flightUsers() (n int) {
	s.flightsMu.Lock()
	defer s.flightsMu.Unlock()
	for _, f := range s.flights {
		n += f.users
	}
	return n
}

// TestCredentialsDoNotShare: who has other credentials does not wait for
// somebody else's download.
func TestCredentialsDoNotShare(t *testing.T) {
	l := newLab(t)
	built := pushBig(l)
	blob := built.Manifest.Layers[0].Digest.String()
	l.reg.Break(imagetest.Fault{Path: blob, StallAfter: 100, Times: 1})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := l.Pull(ctx, l.ref("app:1"), &Auth{Username: "a", Password: "aaa"}, nil)
		done <- err
	}()
	waitFor(t, func() bool { return len(l.reg.Requests(blob)) == 1 })
	within(t, 10*time.Second, "the other pull", func(ctx context.Context) {
		if _, err := l.Pull(ctx, l.ref("app:1"), &Auth{Username: "b", Password: "bbb"}, nil); err != nil {
			t.Error(err)
		}
	})
	if n := len(l.reg.Requests(blob)); n != 2 {
		t.Errorf("%d downloads", n)
	}
	cancel()
	<-done
}

// TestFollowerTriesItself: when the shared download fails for reasons of the
// first one's repository, the others use their own.
func TestFollowerTriesItself(t *testing.T) {
	l := newLab(t)
	built := pushBig(l)
	l.reg.Push("good", "1", built)
	blob := built.Manifest.Layers[0].Digest.String()
	fail := make(chan struct{})
	l.reg.Break(imagetest.Fault{Path: "/app/blobs/" + blob, Do: func(w http.ResponseWriter, _ *http.Request) {
		<-fail
		w.WriteHeader(http.StatusForbidden)
	}})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Pull(t.Context(), l.ref("app:1"), nil, nil); !errors.Is(err, ErrAccessDenied) {
			t.Errorf("error %v", err)
		}
	})
	waitFor(t, func() bool { return len(l.reg.Requests(blob)) == 1 })
	wg.Go(func() {
		if _, err := l.Pull(t.Context(), l.ref("good:1"), nil, nil); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return l.flightUsers() == 2 })
	close(fail)
	wg.Wait()
}

// TestEndlessManifest: what a registry sends has an end.
func TestEndlessManifest(t *testing.T) {
	l := newLab(t)
	endless := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		for chunk := bytes.Repeat([]byte(" "), 1<<16); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	l.reg.Break(imagetest.Fault{Method: "GET", Path: "/manifests/", Do: endless})
	l.reg.Break(imagetest.Fault{Method: "HEAD", Path: "/manifests/", Status: http.StatusOK})
	for _, name := range []string{"app:1", "blobs/app:1"} {
		within(t, 20*time.Second, "an endless manifest", func(ctx context.Context) {
			_, err := l.Pull(ctx, l.ref(name), nil, nil)
			wantError(t, err, "more than 4194305 bytes")
		})
	}
}

// TestManyPullsAtOnce is for the race detector.
func TestManyPullsAtOnce(t *testing.T) {
	l := newLab(t)
	for i := range 4 {
		b := imagetest.New().File("/base", 0o644, noise(200_000))
		l.reg.Push("app", fmt.Sprint(i), b.Layer().File("/own", 0o644, []byte{byte(i)}).Build())
	}
	if err := l.Collect(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			name := l.ref(fmt.Sprintf("app:%d", i%4))
			if _, err := l.Pull(t.Context(), name, nil, func(Progress) {}); err != nil {
				t.Error(err)
				return
			}
			holder := fmt.Sprint("container ", i)
			img, ok := l.HoldImage(holder, name)
			if !ok {
				return // somebody removed it
			}
			for _, dir := range l.LayerPaths(img) {
				if _, err := os.Stat(dir); err != nil {
					t.Error(err)
				}
			}
			if err := l.Remove(img.ID); err != nil {
				t.Error(err)
			}
			l.Release(holder)
			l.List()
		})
	}
	wg.Wait()
	l.work.Wait()
	if len(l.List()) != 0 || len(l.layerDirs(t)) != 0 {
		t.Errorf("left: %v, %v", l.List(), l.layerDirs(t))
	}
}
