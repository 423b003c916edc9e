package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// serveHTTP PORT TEXT answers / with TEXT and /from with the client's address,
// on all addresses. It says "ready" once it listens.
func serveHTTP(args []string) int {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", number(args, 0)))
	if err != nil {
		fatal("cannot listen: %v", err)
	}
	say("ready")
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, args[1]) })
	mux.HandleFunc("/from", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host)
	})
	fatal("%v", http.Serve(listener, mux))
	return 1
}

// get URL writes the page to stdout, within five seconds.
func get(args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		fatal("%v", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fatal("%v", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		fatal("%v", err)
	}
	return 0
}
