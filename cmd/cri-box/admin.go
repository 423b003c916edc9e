package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/cri-box/cri-box/cri"
	"github.com/cri-box/cri-box/oci/image"
)

// The daemon's own socket, beside the CRI's, for what the CRI has no call for:
// HTTP, for root only.
const adminSocket = "admin.sock"

// maxAnswer is how much of a refusal a client reads, in bytes.
const maxAnswer = 64 << 10

// startAdmin serves the admin socket until it is closed.
func (d *daemon) startAdmin() (io.Closer, error) {
	listener, err := cri.Listen(filepath.Join(d.state, adminSocket))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /images/import", d.importImages)
	mux.HandleFunc("POST /images/pull", d.servePull)
	mux.HandleFunc("GET /images/explain", d.explainImage)
	mux.HandleFunc("GET /containers/{id}/calls", d.showCalls)
	mux.HandleFunc("GET /times/{id}", d.showTimes)
	mux.HandleFunc("GET /network", d.showNetwork)
	mux.HandleFunc("GET /why", d.serveWhy)
	mux.Handle("GET /metrics", d.metrics.Handler())
	handleProfiles(mux)
	go http.Serve(listener, mux)
	return listener, nil
}

// imported is an image of an archive.
type imported struct {
	ID   string   `json:"id"`
	Tags []string `json:"tags"`
}

// importImages answers with the images in the archive at ?path=.
func (d *daemon) importImages(w http.ResponseWriter, r *http.Request) {
	images, err := d.images.Import(r.Context(), r.FormValue("path"), image.ImportOptions{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var out []imported
	for _, i := range images {
		out = append(out, imported{i.ID, i.RepoTags})
	}
	answer(w, out)
}

// explainImage answers with what a pull of ?ref= would do.
func (d *daemon) explainImage(w http.ResponseWriter, r *http.Request) {
	plan, err := d.images.Explain(r.Context(), r.FormValue("ref"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, plan)
}

func answer(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Debug("answer not taken", "err", err)
	}
}

// showNetwork answers with a mode.Report: which network serves, why, what is missing.
func (d *daemon) showNetwork(w http.ResponseWriter, _ *http.Request) {
	json.NewEncoder(w).Encode(d.network.Report())
}

func (d *daemon) showCalls(w http.ResponseWriter, r *http.Request) {
	c, err := d.sandboxes.Container(r.PathValue("id"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	spec, err := d.sandboxes.Spec(c.ID)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	text, err := d.runtime.Calls(c.ID, spec)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	io.WriteString(w, text)
}

// showTimes answers with the steps of a pod's or container's making.
func (d *daemon) showTimes(w http.ResponseWriter, r *http.Request) {
	answer(w, d.sandboxes.Timings(r.PathValue("id")))
}

// ask sends a request to the daemon that serves state. The caller closes the answer.
func ask(ctx context.Context, state, method, path string) (io.ReadCloser, error) {
	socket := filepath.Join(state, adminSocket)
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://cri-box"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, unreachable(socket, errors.Unwrap(err))
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return nil, errors.Join(errors.New(strings.TrimSpace(string(b))), err)
}
