package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

const (
	maxRedirects = 10
	// maxSmallBody bounds every answer that is not a blob, in bytes: manifests,
	// tokens, errors.
	maxSmallBody = maxManifest + 1
	// maxRetryAfter bounds how long a registry may ask us to wait.
	maxRetryAfter = 30 * time.Second
)

// stalledError says that a registry sent nothing for too long.
type stalledError struct{}

func (stalledError) Error() string { return "registry sends nothing" }

// Timeout makes the client try again.
func (stalledError) Timeout() bool { return true }

// Temporary completes net.Error.
func (stalledError) Temporary() bool { return true }

var errStalled = stalledError{}

// transport bounds what a registry may do: how long it is silent and how much it
// sends where little is expected.
type transport struct {
	inner http.RoundTripper
	stall time.Duration
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	watch := time.AfterFunc(t.stall, func() { cancel(errStalled) })
	resp, err := t.inner.RoundTrip(req.WithContext(ctx))
	if err != nil {
		watch.Stop()
		if errors.Is(context.Cause(ctx), errStalled) {
			err = errStalled
		}
		cancel(nil)
		return nil, err
	}
	body := &watchedBody{ctx: ctx, cancel: cancel, watch: watch, stall: t.stall, ReadCloser: resp.Body, left: -1}
	if path.Base(path.Dir(origin(req).URL.Path)) != "blobs" && resp.StatusCode < 300 { // in a repository's name it may be too
		body.left = maxSmallBody
	}
	resp.Body = body
	if resp.StatusCode == http.StatusTooManyRequests {
		watch.Stop()
		if err := wait(req.Context(), retryAfter(resp.Header)); err != nil {
			body.Close()
			return nil, err
		}
	}
	return resp, nil
}

// origin is the request that a row of redirects began with.
func origin(req *http.Request) *http.Request {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req
}

// watchedBody is an answer's body that ends when nothing comes for too long.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context // the request's, which a body belongs to
	cancel context.CancelCauseFunc
	watch  *time.Timer
	stall  time.Duration
	left   int64 // bytes that may come, or -1
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.watch.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(b.ctx), errStalled) {
		err = errStalled
	}
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 {
			return 0, fmt.Errorf("registry sends more than %d bytes", maxSmallBody)
		}
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// retryAfter reads how long a registry that has too many requests wants us to
// wait (RFC 9110, 10.2.3).
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	delay := time.Second
	if seconds, err := strconv.Atoi(value); err == nil {
		delay = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		delay = time.Until(at)
	}
	return max(0, min(delay, maxRetryAfter))
}

// wait returns after d, or with ctx's error as soon as that ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// redirectPolicy follows redirects, as blob stores need, without what was meant
// for the registry: net/http compares host names only and keeps Authorization
// for another port or scheme, and always keeps the headers of hosts.toml. From
// TLS it goes to TLS only, but for a registry that is plain where it has none.
func redirectPolicy(private http.Header, plain bool) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("stopped after %d redirects", maxRedirects)
		}
		if sameOrigin(req.URL, via[0].URL) {
			return nil
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" && !isLoopback(via[0].URL) && !plain {
			return errors.New("registry redirects from https to http")
		}
		if req.Body != nil { // what a token server gets: the password is in it
			return errors.New("token server redirects a request that holds credentials to another host")
		}
		for _, name := range []string{"Authorization", "Cookie", "Referer"} {
			req.Header.Del(name)
		}
		for name := range private {
			req.Header.Del(name)
		}
		return nil
	}
}

// fallsBack says whether a client goes back to HTTP where its host has no TLS:
// hosts.toml gives the host as http, with settings of TLS (docker.NewHTTPFallback).
func fallsBack(client *http.Client) bool {
	t, ok := client.Transport.(*transport)
	if !ok {
		return false
	}
	_, direct := t.inner.(*http.Transport)
	return !direct
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}
