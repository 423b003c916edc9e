// Package stream serves what a CRI call answers with a URL: exec, attach and
// port-forward, by SPDY and WebSocket (k8s.io/cri-streaming).
//
//	kubelet ──ExecRequest──▶ Offer ──URL with a token──▶ kubelet
//	kubelet ──GET URL, upgrade──▶ handler, once
//
// The server listens on loopback. Who has the token may use it, once and within
// a minute. Every handler learns by its request's context that the client is
// gone, also while nobody reads from the connection; nothing of a session lives
// on after that.
package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	tokenLife = time.Minute
	maxOffers = 1000
	// headerBound is how long a client may take to say what it wants, and who has no
	// token to be told that it may not.
	headerBound = 10 * time.Second
	maxHeader   = 64 << 10
)

// ErrTooMany: more URLs were asked for than used.
var ErrTooMany = errors.New("too many streaming URLs are waiting to be used; use them or try again in a minute")

// A Server turns handlers into URLs. It serves from Listen until Close.
type Server struct {
	listener net.Listener
	http     *http.Server

	mu     sync.Mutex
	offers map[string]*offer // by path
}

type offer struct {
	serve   http.HandlerFunc
	expires time.Time
}

// quietLibraries drops what the libraries say to klog of what handlers return, and
// handlers tell themselves. klog has one logger per process: it is set once.
var quietLibraries = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })

// Listen opens a port of 127.0.0.1 that the kernel chooses, and serves it.
func Listen() (*Server, error) {
	quietLibraries()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot listen for streams: %w", err)
	}
	s := &Server{listener: l, offers: map[string]*offer{}}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), ReadTimeout: headerBound, WriteTimeout: headerBound, IdleTimeout: headerBound,
		MaxHeaderBytes: maxHeader, ConnContext: withConn, ConnState: noteUpgrade,
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	go s.http.Serve(clientListener{l})
	return s, nil
}

// Close ends the server and every session.
func (s *Server) Close() error {
	s.mu.Lock()
	s.offers = map[string]*offer{}
	s.mu.Unlock()
	return s.http.Close()
}

// Offer returns a URL below /kind/ that serve answers once, within a minute.
func (s *Server) Offer(kind string, serve http.HandlerFunc) (string, error) {
	now := time.Now()
	path := "/" + kind + "/" + rand.Text() // 128 bits at least
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, o := range s.offers {
		if now.After(o.expires) {
			delete(s.offers, path)
		}
	}
	if len(s.offers) >= maxOffers {
		return "", ErrTooMany
	}
	s.offers[path] = &offer{serve, now.Add(tokenLife)}
	return "http://" + s.listener.Addr().String() + path, nil
}

func (s *Server) take(path string) *offer {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.offers[path]
	delete(s.offers, path)
	if o == nil || time.Now().After(o.expires) {
		return nil
	}
	return o
}

// serve answers one request. A connection that was upgraded ends with it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	o := s.take(r.URL.Path)
	if o == nil {
		w.Header().Set("Connection", "close")
		http.Error(w, "no such stream: a URL works once, within a minute", http.StatusNotFound)
		return
	}
	c := r.Context().Value(connKey{}).(*client)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if err := c.watch(cancel); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.unwatch()
	o.serve(w, r.WithContext(ctx))
}
