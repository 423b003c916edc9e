package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cri-box/cri-box/cri"
	"github.com/cri-box/cri-box/oci/image"
	"golang.org/x/sys/unix"
)

// pullLine is one line of the daemon's answer to a pull: progress, or the end.
type pullLine struct {
	image.Progress
	ID  string `json:"id,omitempty"`
	Err string `json:"err,omitempty"`
}

// servePull pulls ?ref= and answers with a line of JSON for each step. It goes on
// as long as the client is there. ?pod= is for whom, if for anybody.
func (d *daemon) servePull(w http.ResponseWriter, r *http.Request) {
	out := json.NewEncoder(w)
	flusher, _ := w.(http.Flusher)
	tell := cri.TellPull(r.FormValue("ref"))
	img, err := d.images.Pull(r.Context(), r.FormValue("ref"), nil, func(p image.Progress) {
		tell(p)
		out.Encode(pullLine{Progress: p})
		if flusher != nil {
			flusher.Flush()
		}
	})
	last := pullLine{ID: img.ID}
	if err != nil {
		last.Err = err.Error()
		if pod := r.FormValue("pod"); pod != "" {
			d.failures.add(failure{Pod: pod, Call: "PullImage", At: time.Now(), Text: last.Err})
		}
	}
	out.Encode(last)
}

// pull gets an image, for a pod or "", and returns its id. On a terminal it shows
// how far it is.
func (c *client) pull(ctx context.Context, ref, pod string) (string, error) {
	body, err := ask(ctx, c.settings.state, http.MethodPost, "/images/pull?ref="+url.QueryEscape(ref)+"&pod="+url.QueryEscape(pod))
	if err != nil {
		return "", err
	}
	defer body.Close()
	_, err = unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	terminal := err == nil
	if terminal {
		defer fmt.Fprint(os.Stderr, "\r\033[K")
	}
	in := json.NewDecoder(body)
	for {
		var line pullLine
		switch err := in.Decode(&line); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return "", fmt.Errorf("cannot pull %s: the daemon went away", ref)
		case err != nil:
			return "", fmt.Errorf("cannot pull %s: %w", ref, err)
		case line.Err != "":
			return "", errors.New(line.Err)
		case line.ID != "":
			return line.ID, nil
		case terminal:
			fmt.Fprintf(os.Stderr, "\r\033[K%s", progressText(ref, line.Progress))
		}
	}
}

// progressText is one line about a pull: a bar, bytes, and layers.
func progressText(ref string, p image.Progress) string {
	const width = 30
	done := 0
	if p.Total > 0 {
		done = int(min(p.Bytes, p.Total) * width / p.Total)
	}
	return fmt.Sprintf("%s [%s%s] %s of %s, %d of %d layers", visible(ref), strings.Repeat("#", done), strings.Repeat(".", width-done),
		bytesText(uint64(p.Bytes)), bytesText(uint64(p.Total)), p.Done, p.Layers)
}
