package pods_test

import (
	"strconv"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// imageWithFile is an image of two layers that has data and no program.
func imageWithFile(t *testing.T) *imagetest.Image {
	t.Helper()
	return imagetest.New().File("/data/file", 0o644, []byte("below")).Layer().File("/data/file", 0o644, []byte("in the image")).Build()
}

func itoa(n int) string { return strconv.Itoa(n) }
