package imagetest

import (
	"io"
	"log"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

var discard = log.New(io.Discard, "", 0)

// Fault is something that goes wrong with certain requests. Of its effects one is
// set, apart from Status and Header, which go together.
type Fault struct {
	// Method and Path choose the requests: the method, or any if empty, and a
	// text that the path contains.
	Method, Path string
	// Times is how many requests are hit; 0 is all.
	Times int
	// BeforeAuth makes the fault hit before credentials are asked for.
	BeforeAuth bool

	// CutAfter closes the connection after so many bytes of the body.
	CutAfter int64
	// StallAfter sends nothing any more after so many bytes of the body, until
	// the client goes away. -1 stalls before the first byte of the answer.
	StallAfter int64
	// Corrupt changes the byte in the middle of the body.
	Corrupt bool
	// Redirect sends the client to this address with the request's path added.
	Redirect string
	// Status answers with this and no content. Header is added.
	Status int
	Header http.Header
	// Body, with Status, is sent as the answer's body.
	Body string
	// Do, if nothing else is set, answers the request itself.
	Do http.HandlerFunc
}

// Break makes a fault happen from now on. Of several that fit the first that has
// requests left happens.
func (r *Registry) Break(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	r.faults = append(r.faults, &f)
}

// Mend takes all faults back.
func (r *Registry) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

func (r *Registry) fault(req *http.Request) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.faults {
		if f.Times == 0 || f.Method != "" && f.Method != req.Method || !strings.Contains(req.URL.Path, f.Path) {
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		return f
	}
	return nil
}

// apply answers the request, and returns nil then, or returns the writer that
// the answer is to be written to.
func (f *Fault) apply(w http.ResponseWriter, req *http.Request, closed <-chan struct{}) http.ResponseWriter {
	switch {
	case f.Redirect != "":
		http.Redirect(w, req, f.Redirect+req.URL.Path, http.StatusTemporaryRedirect)
		return nil
	case f.Status != 0:
		for name, values := range f.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return nil
	case f.Do != nil:
		f.Do(w, req)
		return nil
	case f.StallAfter < 0:
		waitGone(req, closed)
		return nil
	}
	return &faultyWriter{w, f, req, closed, 0}
}

// faultyWriter is an answer that goes wrong in its body.
type faultyWriter struct {
	http.ResponseWriter
	fault  *Fault
	req    *http.Request
	closed <-chan struct{}
	sent   int64
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	limit := w.fault.CutAfter + w.fault.StallAfter
	switch {
	case w.fault.Corrupt:
		length, _ := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
		if i := length/2 - w.sent; i >= 0 && i < int64(len(p)) {
			p = slices.Clone(p)
			p[i] ^= 0xff
		}
	case limit > 0 && w.sent+int64(len(p)) > limit:
		n, _ := w.ResponseWriter.Write(p[:limit-w.sent])
		w.sent += int64(n)
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		if w.fault.StallAfter > 0 {
			waitGone(w.req, w.closed)
		}
		panic(http.ErrAbortHandler) // closes the connection
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// waitGone waits until the client goes away or the registry is closed.
func waitGone(req *http.Request, closed <-chan struct{}) {
	select {
	case <-req.Context().Done():
	case <-closed:
	}
}
