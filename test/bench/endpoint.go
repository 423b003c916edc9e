package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An endpoint is one CRI runtime under measurement.
type endpoint struct {
	name, socket string
	processes    *regexp.Regexp // nil: their memory is not measured
	version      string
	runtime      runtimeapi.RuntimeServiceClient

	mu      sync.Mutex
	results map[string][]float64
	order   []string
	serial  int
}

// endpoints implements flag.Value.
type endpoints []*endpoint

func (l *endpoints) String() string { return fmt.Sprintf("%d endpoints", len(*l)) }

// Set parses name=socket[,pattern].
func (l *endpoints) Set(v string) error {
	name, rest, ok := strings.Cut(v, "=")
	if !ok {
		return fmt.Errorf("%q is not name=socket[,pattern]", v)
	}
	e := &endpoint{name: name, results: map[string][]float64{}}
	socket, pattern, has := strings.Cut(rest, ",")
	e.socket = strings.TrimPrefix(socket, "unix://")
	if has {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return err
		}
		e.processes = re
	}
	*l = append(*l, e)
	return nil
}

func (e *endpoint) dial(ctx context.Context, s settings) error {
	conn, err := grpc.NewClient("unix://"+e.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w", e.name, err)
	}
	e.runtime = runtimeapi.NewRuntimeServiceClient(conn)
	v, err := e.runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w", e.name, err)
	}
	e.version = v.RuntimeName + " " + v.RuntimeVersion
	img, err := runtimeapi.NewImageServiceClient(conn).ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: s.image}})
	if err != nil || img.Image == nil {
		return fmt.Errorf("%s has no image %s: %w", e.name, s.image, err)
	}
	return nil
}

// add keeps one sample.
func (e *endpoint) add(what string, v float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.results[what]; !known {
		e.order = append(e.order, what)
	}
	e.results[what] = append(e.results[what], v)
}

// timed adds the milliseconds that call takes.
func (e *endpoint) timed(what string, call func() error) error {
	began := time.Now()
	err := call()
	e.add(what, float64(time.Since(began).Microseconds())/1000)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (e *endpoint) next() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.serial++
	return e.serial
}
