package verify

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func ask(t *testing.T, ctx context.Context, scripts map[string]string) (dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	for name, body := range scripts {
		mode := os.FileMode(0o755)
		if body == "" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\ncd "+dir+"\n"+body), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir, All(ctx, dir, "registry.test/app:1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 7})
}

func TestVerifiers(t *testing.T) {
	for what, c := range map[string]struct {
		scripts map[string]string
		want    []string // in the error; nil for none
	}{
		"none":            {nil, nil},
		"accepts":         {map[string]string{"a": "echo fine"}, nil},
		"a hidden file":   {map[string]string{".note": ""}, nil},
		"rejects":         {map[string]string{"a": "exit 0", "b": "echo not signed by us; exit 3"}, []string{"image verifier b: ", "exit status 3", "not signed by us"}},
		"not executable":  {map[string]string{"a": ""}, []string{"image verifier a: ", "permission denied"}},
		"says a lot":      {map[string]string{"a": "head -c 1000000 /dev/zero | tr '\\0' x; exit 1"}, []string{"exit status 1", "xxx"}},
		"killed":          {map[string]string{"a": "kill -9 $$"}, []string{"signal: killed"}},
		"more than asked": {map[string]string{"a": "", "b": "", "c": "", "d": "", "e": "", "f": "", "g": "", "h": "", "i": "", "j": "", "k": ""}, []string{"11 image verifiers"}},
	} {
		_, err := ask(t, t.Context(), c.scripts)
		if c.want == nil && err != nil || c.want != nil && err == nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, part := range c.want {
			if err != nil && (!strings.Contains(err.Error(), part) || len(err.Error()) > 2*maxReason) {
				t.Errorf("%s: no %q in %.500v", what, part, err)
			}
		}
	}
	if err := All(t.Context(), "/no/such/directory", "x", ocispec.Descriptor{}); err != nil {
		t.Errorf("without a directory: %v", err)
	}
	if err := All(t.Context(), "/dev/null", "x", ocispec.Descriptor{}); err == nil {
		t.Error("what is no directory was passed over")
	}
}

// TestWhatAVerifierGets: the arguments and input of containerd's interface.
func TestWhatAVerifierGets(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	dir, err := ask(t, t.Context(), map[string]string{"a": `echo "$@" >args; cat >.input; echo "$NOTIFY_SOCKET" >.notify; mv args .args`})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		".args":   "-name registry.test/app:1 -digest " + digest.FromString("x").String() + " -stdin-media-type application/vnd.oci.descriptor.v1+json\n",
		".input":  `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digest.FromString("x").String() + `","size":7}`,
		".notify": "\n",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; wanted %q", file, got, err, want)
		}
	}
}

// TestHungVerifier: it and its children are killed when the pull ends.
func TestHungVerifier(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		d := t.TempDir()
		dir <- d
		script := "#!/bin/sh\nsleep 1000 &\necho $! >" + d + "/.pid.new\nmv " + d + "/.pid.new " + d + "/.pid\nwait\n"
		if err := os.WriteFile(filepath.Join(d, "a"), []byte(script), 0o755); err != nil {
			done <- err
			return
		}
		done <- All(ctx, d, "x", ocispec.Descriptor{Digest: digest.FromString("x")})
	}()
	file := filepath.Join(<-dir, ".pid")
	var pid []byte
	for end := time.Now().Add(8 * time.Second); len(pid) == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		pid, _ = os.ReadFile(file)
	}
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("error %v", err)
	}
	child := filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline")
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(time.Millisecond) {
		if cmdline, err := os.ReadFile(child); err != nil || len(cmdline) == 0 { // gone, or a zombie
			return
		}
		if time.Now().After(end) {
			t.Fatal("the verifier's child is still there")
		}
	}
}
