package imagetest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is an image registry in memory (OCI distribution specification, the
// part that pulls). It is an http.Handler; its methods may be called while it
// serves.
type Registry struct {
	closed    chan struct{}
	closeOnce sync.Once

	mu       sync.Mutex
	repos    map[string]*repository
	auth     auth
	faults   []*Fault
	requests []Request
	server   *http.Server
}

type repository struct {
	tags  map[string]ocispec.Descriptor
	types map[digest.Digest]string // media types of manifests
	blobs map[digest.Digest][]byte
}

// Request is what one request was. The path is what stood in the request's first
// line: a whole address when a proxy was asked.
type Request struct {
	Method, Path, Range, Authorization string
	Header                             http.Header
}

// NewRegistry returns a registry without images that lets everybody in.
func NewRegistry() *Registry {
	return &Registry{closed: make(chan struct{}), repos: map[string]*repository{}}
}

// Push puts an image into a repository under a tag, which may be empty, and
// returns the digest of its manifest or index. The tag moves if it was there.
func (r *Registry) Push(repo, tag string, img *Image) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repos[repo]
	if rp == nil {
		rp = &repository{map[string]ocispec.Descriptor{}, map[digest.Digest]string{}, map[digest.Digest][]byte{}}
		r.repos[repo] = rp
	}
	for d, data := range img.blobs {
		rp.blobs[d] = data
	}
	rp.types[img.Top.Digest] = img.Top.MediaType
	if tag != "" {
		rp.tags[tag] = img.Top
	}
	return img.Top.Digest
}

// Delete takes a blob or manifest out of a repository.
func (r *Registry) Delete(repo string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repos[repo].blobs, d)
}

// Serve serves on a listener until Close, and then returns nil.
func (r *Registry) Serve(l net.Listener) error {
	r.mu.Lock()
	if r.server == nil {
		r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute, ErrorLog: discard}
	}
	server := r.server
	r.mu.Unlock()
	if err := server.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// Close ends Serve and every request, also those that stall.
func (r *Registry) Close() error {
	r.closeOnce.Do(func() { close(r.closed) })
	r.mu.Lock()
	server := r.server
	r.mu.Unlock()
	if server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if server.Shutdown(ctx) == nil {
		return nil
	}
	return server.Close()
}

// Requests returns the requests so far whose path contains a text, in order.
func (r *Registry) Requests(containing string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Request
	for _, q := range r.requests {
		if strings.Contains(q.Path, containing) {
			out = append(out, q)
		}
	}
	return out
}

// ServeHTTP answers one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, Request{req.Method, req.RequestURI, req.Header.Get("Range"), req.Header.Get("Authorization"), req.Header.Clone()})
	r.mu.Unlock()
	if req.URL.Path == tokenPath {
		r.serveToken(w, req)
		return
	}
	fault := r.fault(req)
	if fault != nil && fault.BeforeAuth {
		if w = fault.apply(w, req, r.closed); w == nil {
			return
		}
	} else if !r.authorized(w, req) {
		return
	} else if fault != nil {
		if w = fault.apply(w, req, r.closed); w == nil {
			return
		}
	}
	r.serveContent(w, req)
}

// serveContent answers /v2/<repository>/{manifests,blobs}/<reference>.
func (r *Registry) serveContent(w http.ResponseWriter, req *http.Request) {
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		notFound(w, "NAME_UNKNOWN")
		return
	}
	if rest == "" {
		return
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		notFound(w, "NAME_UNKNOWN")
		return
	}
	repo := strings.Join(parts[:len(parts)-2], "/")
	kind, ref := parts[len(parts)-2], parts[len(parts)-1]
	mediaType, data := r.find(repo, kind, ref)
	if data == nil {
		notFound(w, strings.ToUpper(strings.TrimSuffix(kind, "s"))+"_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data)) // knows Range
}

func (r *Registry) find(repo, kind, ref string) (mediaType string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repos[repo]
	if rp == nil {
		return "", nil
	}
	d := digest.Digest(ref)
	if kind == "blobs" {
		return "application/octet-stream", rp.blobs[d]
	}
	if desc, ok := rp.tags[ref]; ok {
		return desc.MediaType, rp.blobs[desc.Digest]
	}
	mediaType = rp.types[d]
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest // of an index
	}
	return mediaType, rp.blobs[d]
}

func notFound(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"not known here"}]}`, code)
}
