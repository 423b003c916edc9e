package image

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// maxName bounds a name, in bytes. Registries refuse much shorter ones.
const maxName = 4096

// parseName completes a name as Docker does: "busybox" is
// "docker.io/library/busybox:latest". A name with both tag and digest is the one
// with the digest.
func parseName(name string) (reference.Named, error) {
	if len(name) > maxName {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrInvalidName, maxName)
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w; write [HOST/]NAME[:TAG][@DIGEST]", ErrInvalidName, name, err)
	}
	return named, nil
}

// labels are the names that one pull or import gives an image.
type labels struct{ tags, digests []string }

// labelsFor says what an image that was asked for as named, and has the digest
// top, is called: by its tag and by its digest, or by its digest alone if it was
// asked for so.
func labelsFor(named reference.Named, top digest.Digest) labels {
	if _, ok := named.(reference.Canonical); ok {
		return labels{digests: []string{named.String()}}
	}
	return labels{
		tags:    []string{named.String()},
		digests: []string{named.Name() + "@" + top.String()},
	}
}
