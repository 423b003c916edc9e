package images

import (
	"slices"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// The digest is a constant in the binary that somebody builds for this registry.
func TestDigestNameStays(t *testing.T) {
	const want = "gcr.io/k8s-staging-cri-tools/test-image-digest@sha256:d38d66296bb8dd5aa53bd8264b49efc8dd3f7ab930f9ab10f19bf89c845967b6"
	if got := DigestName(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLoaded(t *testing.T) {
	ldd := "\tlinux-vdso.so.1 (0x00007ff)\n\tlibz.so.1 => /lib/x/libz.so.1 (0x00007ff)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007ff)\n"
	want := []string{"/lib/x/libz.so.1", "/lib64/ld-linux-x86-64.so.2"}
	if got := loaded([]byte(ldd)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
