package mount

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSmoke(t *testing.T) {
	t.Logf("%+v", Detect())
	d := t.TempDir()
	for _, n := range []string{"l1", "l2", "u", "w"} {
		os.Mkdir(filepath.Join(d, n), 0o755)
	}
	for _, m := range []LayerMode{LayersByFD, LayersByPath, LayersByMount} {
		f, err := overlay(m, []string{d + "/l1", d + "/l2"}, d+"/u", d+"/w", OverlayOptions{})
		if err != nil {
			t.Fatal(m, err)
		}
		t.Log(MakePoint(f, "/proc/"+string(m), true))
		t.Log(MakePoint(f, "/etc/"+string(m), false))
		f.Close()
	}
	dev, err := Dev(nil, DevOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	pts, err := Devpts(5)
	if err != nil {
		t.Fatal(err)
	}
	m, s, err := OpenPTY(pts)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Clone(s, false)
	t.Log(m, s, c, err)
	_, err = Clone(pts, false)
	t.Log(err)
	_ = unix.O_PATH
}
