package harness

import "testing"

func TestTestImages(t *testing.T) {
	for _, name := range []string{"probe", "busybox"} {
		if img := TestImage(t, name); len(img.Manifest.Layers) != 1 || img.ID() == "" {
			t.Errorf("image %s: %+v", name, img.Manifest)
		}
	}
}
