package cri

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image"
)

// TestTellPull: the log tells how far a pull is at once and then now and then,
// not four times a second.
func TestTellPull(t *testing.T) {
	var out bytes.Buffer
	old := slog.Default()
	defer slog.SetDefault(old)
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	now := time.Unix(1_000_000_000, 0)
	tell := tellPull("registry.test/app:1", func() time.Time { return now })
	for range 100 { // 25 s
		tell(image.Progress{Bytes: 7, Total: 9, Done: 1, Layers: 2})
		now = now.Add(250 * time.Millisecond)
	}
	const want = "msg=pulling image=registry.test/app:1 bytes=7 total=9 layers_done=1 layers=2\n"
	if got := strings.Count(out.String(), want); got != 3 || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("in 25 s the log says\n%s", &out)
	}
}
