package image

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// BenchmarkPull pulls an image of four layers from a registry in this process.
// CRI_BOX_BENCH_MIB is its unpacked size, 64 without it.
func BenchmarkPull(b *testing.B) {
	size := 64
	if text := os.Getenv("CRI_BOX_BENCH_MIB"); text != "" {
		var err error
		if size, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	reg := imagetest.NewRegistry()
	go func() { _ = reg.Serve(listener) }()
	defer reg.Close()
	built := benchImage(size << 20)
	reg.Push("app", "1", built)
	var packed int64
	for _, l := range built.Manifest.Layers {
		packed += l.Size
	}
	b.SetBytes(int64(size) << 20)
	for i := range b.N {
		root := filepath.Join(b.TempDir(), fmt.Sprint(i))
		s, err := Open(Config{Root: root, CertsDirs: []string{"/nonexistent"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Pull(b.Context(), listener.Addr().String()+"/app:1", nil, nil); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		os.RemoveAll(root)
		b.StartTimer()
	}
	b.ReportMetric(float64(packed)/(1<<20), "MiB-packed")
}

// benchImage has files as a real image has: many small ones, a few large ones,
// compressible to some 40 %.
func benchImage(size int) *imagetest.Image {
	r := rand.New(rand.NewPCG(1, 2))
	b := imagetest.New()
	for layer := range 4 {
		if layer > 0 {
			b.Layer()
		}
		for left, n := size/4, 0; left > 0; n++ {
			length := min(left, 2000+r.IntN(30_000))
			if n%50 == 0 {
				length = min(left, 1<<20+r.IntN(8<<20))
			}
			b.File(fmt.Sprintf("/usr/lib/layer%d/dir%d/file%d", layer, n/40, n), 0o644, halfNoise(r, length))
			left -= length
		}
	}
	return b.Build()
}

// halfNoise is words of which some come again.
func halfNoise(r *rand.Rand, n int) []byte {
	data := make([]byte, 0, n+8)
	for len(data) < n {
		if r.IntN(3) > 0 && len(data) > 64 {
			from := len(data) - 8 - r.IntN(min(len(data)-8, 4000))
			data = append(data, data[from:from+8]...)
			continue
		}
		v := r.Uint64()
		for range 8 {
			data = append(data, byte(v))
			v >>= 8
		}
	}
	return data[:n]
}
