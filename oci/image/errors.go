package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var (
	// ErrRegistryUnavailable begins the text of an error when no registry could
	// be reached or it was out of order. The kubelet reads the text up to the
	// colon.
	ErrRegistryUnavailable = errors.New("RegistryUnavailable")
	// ErrSignatureValidationFailed begins the text of an error when an image
	// verifier rejected the image or could not be asked. The kubelet reads it so too.
	ErrSignatureValidationFailed = errors.New("SignatureValidationFailed")
	// ErrNotFound says that the registry or archive does not have the image.
	ErrNotFound = errors.New("image not found")
	// ErrAccessDenied says that the registry refused the credentials or their lack.
	ErrAccessDenied = errors.New("access denied")
	// ErrInvalidName says that a text is no image name.
	ErrInvalidName = errors.New("invalid image name")
	// ErrInvalidAuth says that credentials cannot be read.
	ErrInvalidAuth = errors.New("auth is not the base64 of user:password")
)

// maxErrorText bounds an error's text in bytes: registries put their own into it.
const maxErrorText = 2048

// pullError is an error whose text was cleaned. It wraps only kinds, not the
// errors it came from, since those have the secrets still.
type pullError struct {
	text  string
	kinds []error
}

func (e *pullError) Error() string   { return e.text }
func (e *pullError) Unwrap() []error { return e.kinds }

// cleanError turns an error of a pull into one that may be logged and handed out.
func cleanError(ctx context.Context, name string, err error, auth *Auth) error {
	kind := errorKind(ctx, err)
	text := fmt.Sprintf("cannot pull %s: %s", name, cleanText(err, auth))
	if kind == ErrRegistryUnavailable || kind == ErrSignatureValidationFailed {
		text = kind.Error() + ": " + text
	}
	if kind == nil {
		return &pullError{text: text}
	}
	return &pullError{text, []error{kind}}
}

// errorKind says what a caller may act on, or nil.
func errorKind(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		switch status.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return ErrAccessDenied
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return ErrRegistryUnavailable
		}
	}
	for _, kind := range []error{ErrNotFound, ErrAccessDenied, ErrInvalidName, ErrInvalidAuth, ErrSignatureValidationFailed} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return ErrAccessDenied
	case errdefs.IsNotFound(err):
		return ErrNotFound
	case unavailable(err):
		return ErrRegistryUnavailable
	}
	return nil
}

// unavailable says whether nobody answered as a registry.
func unavailable(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	var header tls.RecordHeaderError
	return errors.As(err, &dns) || errors.As(err, &header) ||
		errors.As(err, &op) && op.Op == "dial" ||
		errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) ||
		errors.Is(err, errStalled)
}

// cleanText is an error's text without query strings, which carry signatures
// and tokens, without the secrets of auth, in one line, and bounded.
func cleanText(err error, auth *Auth) string {
	text := err.Error()
	for _, raw := range errorURLs(err, nil) {
		text = strings.ReplaceAll(text, raw, cleanURL(raw))
	}
	for _, secret := range auth.secrets() {
		text = strings.ReplaceAll(text, secret, "[secret]")
	}
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return text
}

// errorURLs collects the addresses that the errors of a tree print.
func errorURLs(err error, urls []string) []string {
	switch e := err.(type) {
	case *url.Error:
		urls = append(urls, e.URL)
	case remoteerrors.ErrUnexpectedStatus:
		urls = append(urls, e.RequestURL)
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return errorURLs(inner, urls)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			urls = errorURLs(inner, urls)
		}
	}
	return urls
}

func cleanURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "[address]"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
