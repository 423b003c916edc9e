package sandbox

import "errors"

// The kinds of error that a caller may act on; cri turns each into a gRPC code.
// What is none of them and not ErrInvalid (oci/spec) is an internal error.
var (
	// ErrNotFound: there is no such pod, container or image.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken by something with another configuration.
	ErrExists = errors.New("already exists")
	// ErrState: the pod or container is not in a state that allows this.
	ErrState = errors.New("wrong state")
	// ErrUnavailable: it may work later.
	ErrUnavailable = errors.New("unavailable")
)
