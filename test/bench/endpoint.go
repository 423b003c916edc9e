package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An endpoint is one CRI runtime under measurement.
type endpoint struct {
	name, socket string
	processes    *regexp.Regexp // nil: their memory is not measured
	version      string
	daemon       *daemon // nil: not started by the benchmark
	runtime      runtimeapi.RuntimeServiceClient
	images       runtimeapi.ImageServiceClient

	mu      sync.Mutex
	results map[string][]float64
	order   []string
	serial  int
	quiet   int // above 0: nothing is kept

	behaviour map[string]string // by test of test/critest
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

// dial connects, asks for the version, and has the image there.
func (e *endpoint) dial(ctx context.Context, b *bench) error {
	conn, err := grpc.NewClient("unix://"+e.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 20 * time.Second, Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}))
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w", e.name, err)
	}
	e.runtime, e.images = runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	if e.daemon == nil {
		if err := e.hello(ctx); err != nil {
			return fmt.Errorf("cannot reach %s: %w", e.name, err)
		}
	} else if err := e.ready(ctx); err != nil {
		return err
	}
	spec := &runtimeapi.ImageSpec{Image: b.image}
	if e.daemon != nil {
		if _, err := e.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec}); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	img, err := e.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil || img.Image == nil {
		return fmt.Errorf("%s has no image %s: %w", e.name, b.image, err)
	}
	return nil
}

// hello asks for the version.
func (e *endpoint) hello(ctx context.Context) error {
	v, err := e.runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err == nil {
		e.version = v.RuntimeName + " " + v.RuntimeVersion
	}
	return err
}

// ready waits until the runtime and its network are.
func (e *endpoint) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := e.answers(ctx); err != nil {
		return err
	}
	for {
		st, err := e.runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			return err
		}
		not := ""
		for _, c := range st.Status.Conditions {
			if !c.Status && (c.Type == runtimeapi.RuntimeReady || c.Type == runtimeapi.NetworkReady) {
				not = c.Type + ": " + c.Message
			}
		}
		if not == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s", e.name, not)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// add keeps one sample.
func (e *endpoint) add(what string, v float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.quiet > 0 {
		return
	}
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

// quietly keeps no samples of what do measures.
func (e *endpoint) quietly(do func() error) error {
	change := func(by int) {
		e.mu.Lock()
		e.quiet += by
		e.mu.Unlock()
	}
	change(1)
	defer change(-1)
	return do()
}

func (e *endpoint) next() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.serial++
	return e.serial
}
