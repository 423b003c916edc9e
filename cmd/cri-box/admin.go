package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"github.com/cri-box/cri-box/cri"
	"github.com/cri-box/cri-box/oci/image"
)

// The daemon's own socket, beside the CRI's, for what the CRI has no call for:
// HTTP, for root only.
const adminSocket = "admin.sock"

// startAdmin serves the admin socket until it is closed.
func (d *daemon) startAdmin() (io.Closer, error) {
	listener, err := cri.Listen(filepath.Join(d.state, adminSocket))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /images/import", d.importImages)
	mux.HandleFunc("GET /containers/{id}/calls", d.showCalls)
	mux.HandleFunc("GET /network", d.showNetwork)
	go http.Serve(listener, mux)
	return listener, nil
}

// importImages answers with the images in the archive at ?path=.
func (d *daemon) importImages(w http.ResponseWriter, r *http.Request) {
	images, err := d.images.Import(r.Context(), r.FormValue("path"), image.ImportOptions{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	type line struct {
		ID   string   `json:"id"`
		Tags []string `json:"tags"`
	}
	var out []line
	for _, i := range images {
		out = append(out, line{i.ID, i.RepoTags})
	}
	json.NewEncoder(w).Encode(out)
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

// ask sends a request to the daemon that serves state.
func ask(state, method, path string, body io.Reader) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(state, adminSocket))
	}}}
	req, err := http.NewRequest(method, "http://cri-box"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the daemon (is cri-box serve running with --state %s?): %w", state, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(string(b))
	}
	return b, nil
}

// images is the role "images".
func images(args []string) error {
	f := flag.NewFlagSet("images import", flag.ContinueOnError)
	state := f.String("state", config.DefaultState, "the daemon's state directory")
	if len(args) == 0 || args[0] != "import" {
		return errors.New("usage: cri-box images import [--state DIR] FILE")
	}
	if err := f.Parse(args[1:]); err != nil || f.NArg() != 1 {
		return errors.New("usage: cri-box images import [--state DIR] FILE")
	}
	path, err := filepath.Abs(f.Arg(0))
	if err != nil {
		return err
	}
	b, err := ask(*state, http.MethodPost, "/images/import?path="+url.QueryEscape(path), nil)
	if err != nil {
		return fmt.Errorf("cannot import %s: %w", f.Arg(0), err)
	}
	var lines []struct {
		ID   string   `json:"id"`
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(b, &lines); err != nil {
		return err
	}
	for _, l := range lines {
		fmt.Println(l.ID, l.Tags)
	}
	return nil
}

// explain is the role "explain".
func explain(args []string) error {
	f := flag.NewFlagSet("explain", flag.ContinueOnError)
	state := f.String("state", config.DefaultState, "the daemon's state directory")
	if err := f.Parse(args); err != nil || f.NArg() != 1 {
		return errors.New("usage: cri-box explain [--state DIR] CONTAINER")
	}
	b, err := ask(*state, http.MethodGet, "/containers/"+f.Arg(0)+"/calls", nil)
	if err != nil {
		return fmt.Errorf("cannot explain %s: %w", f.Arg(0), err)
	}
	os.Stdout.Write(b)
	return nil
}
