package main

import (
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image"
)

// TestWhyAnImage: the pull of an image is found by what the image is called, in short
// or whole.
func TestWhyAnImage(t *testing.T) {
	for ref, want := range map[string]int{"busybox": 1, "busybox:latest": 1, "docker.io/library/busybox": 1, "docker.io/library/busybox:latest": 1,
		"busybox:1": 0, "box": 0, "Bad Name": 0, "": 2} {
		r := report{Pulls: []image.Doing{{Image: "docker.io/library/busybox:latest", Since: time.Now()}, {Image: "registry.example.org/x:1", Since: time.Now()}}}
		if r.choose(ref); len(r.Pulls) != want {
			t.Errorf("%q means %d pulls, wanted %d", ref, len(r.Pulls), want)
		}
	}
}
