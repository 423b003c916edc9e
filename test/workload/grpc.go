package main

import (
	"fmt"
	"net/http"
	"os"
)

// What grpc.health.v1.HealthCheckResponse is on the wire: no compression, two
// bytes, field 1 with SERVING or NOT_SERVING.
const (
	healthy   = "\x00\x00\x00\x00\x02\x08\x01"
	unhealthy = "\x00\x00\x00\x00\x02\x08\x02"
)

// serveGRPC PORT FILE answers gRPC's health check: SERVING as long as there is
// the file, which it makes. It says "ready" once it does.
func serveGRPC(args []string) int {
	file := args[1]
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		fatal("%v", err)
	}
	health := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		answer := unhealthy
		if _, err := os.Stat(file); err == nil {
			answer = healthy
		}
		fmt.Fprint(w, answer)
		w.Header().Set("Grpc-Status", "0")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/grpc.health.v1.Health/Check", health)
	server := http.Server{Addr: fmt.Sprintf(":%d", number(args, 0)), Handler: mux, Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	say("ready")
	fatal("%v", server.ListenAndServe())
	return 1
}
