// Package soak_test leads many pods through their lives, kills serve and keeper on
// the way, and wants everything as flat at the end as it was at the beginning.
package soak_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

// number is a setting of the long form: make soak sets them all.
func number(name string, short int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return short
}

// A soak is the run: each client leads pods through their lives, one at a time.
type soak struct {
	*harness.Instance
	image              string
	clients            []runtimeapi.RuntimeServiceClient
	cycles, execs      int // in all; commands in each pod
	killEvery          int
	begun, done, lives atomic.Int64
	ran, aborted       atomic.Int64
	serves, keepers    atomic.Int64
	failed             atomic.Pointer[error]
}

// TestSoak is the short form; make soak the long one.
func TestSoak(t *testing.T) {
	i := harness.New(t)
	s := &soak{Instance: i, image: i.Image("probe"), cycles: number("CRIBOX_SOAK_PODS", 96), execs: number("CRIBOX_SOAK_EXECS", 10),
		killEvery: number("CRIBOX_SOAK_KILLS", 8)}
	const clients = 8
	for range clients {
		s.clients = append(s.clients, runtimeapi.NewRuntimeServiceClient(s.Dial()))
	}
	began := time.Now()
	// The first part warms up, the last has no kill: what grows shows in it.
	s.part(s.cycles/8, 0)
	first := s.measure()
	s.part(s.cycles/2, s.killEvery)
	s.part(s.cycles/8, 0)
	middle := s.measure()
	s.part(s.cycles/4, 0)
	last := s.measure()
	took := time.Since(began)
	t.Logf("%d pods, %d ExecSync, %d aborted streams by %d clients in %v (%.1f pods a second), %d kills of serve, %d of the keeper",
		s.done.Load(), s.ran.Load(), s.aborted.Load(), clients, took.Round(time.Second), float64(s.done.Load())/took.Seconds(), s.serves.Load(), s.keepers.Load())
	t.Logf("after the first eighth: %v", first)
	t.Logf("after the kills:        %v", middle)
	t.Logf("at the end:             %v", last)
	for _, why := range append(last.beyond(first), last.beyond(middle)...) {
		t.Error(why)
	}
}

// part leads n pods through their lives, with a kill each time that every are done.
func (s *soak) part(n, every int) {
	s.T.Helper()
	s.begun.Store(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { defer close(stopped); s.kill(every, stop) }()
	var wg sync.WaitGroup
	for _, rt := range s.clients {
		wg.Go(func() {
			for s.begun.Add(1) <= int64(n) && s.failed.Load() == nil {
				if err := s.life(rt); err != nil {
					s.failed.CompareAndSwap(nil, &err)
				}
				s.done.Add(1)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-stopped
	s.T.Logf("%d pods done", s.done.Load())
	if err := s.failed.Load(); err != nil {
		s.T.Fatal(*err)
	}
}

// kill kills serve, the keeper, or both, in turn, each time that every more pods
// are done.
func (s *soak) kill(every int, stop chan struct{}) {
	from := s.done.Load()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; every > 0; n++ {
		for s.done.Load() < from+int64(every*(n+1)) {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
		if n%3 != 0 {
			s.keepers.Add(1)
			if pid := s.Keeper(); pid != 0 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if n%3 != 1 {
			s.serves.Add(1)
			s.Kill()
			s.Start()
		}
	}
}

// again makes a call until it is not lost with the one who should answer it.
func again(call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := call(ctx)
		if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled {
			return err
		}
	}
}

// life is a pod's with one container: commands, a stream that is aborted, its end.
func (s *soak) life(rt runtimeapi.RuntimeServiceClient) error {
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: fmt.Sprint("soak-", s.lives.Add(1)), Namespace: "soak", Uid: "u"},
		LogDirectory: s.Dir + "/logs", Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
	wait := grpc.WaitForReady(true)
	var pod, ctr string
	err := again(func(ctx context.Context) error {
		r, err := rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config}, wait)
		pod = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		return fmt.Errorf("RunPodSandbox: %w", err)
	}
	spec := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: s.image},
		Command: []string{"/bin/workload", "sleep-forever"}, LogPath: config.Metadata.Name + ".log"}
	err = again(func(ctx context.Context) error {
		r, err := rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: spec, SandboxConfig: config}, wait)
		ctr = r.GetContainerId()
		return err
	})
	if err != nil {
		return fmt.Errorf("CreateContainer: %w", err)
	}
	tries := 0
	err = again(func(ctx context.Context) error {
		tries++
		_, err := rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: ctr}, wait)
		if tries > 1 && status.Code(err) == codes.FailedPrecondition {
			return nil // started, and the answer was lost
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	if err := s.use(rt, ctr); err != nil {
		return err
	}
	err = again(func(ctx context.Context) error {
		_, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: ctr}, wait)
		return err
	})
	if err != nil {
		return fmt.Errorf("StopContainer: %w", err)
	}
	err = again(func(ctx context.Context) error {
		_, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}, wait)
		return err
	})
	if err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	err = again(func(ctx context.Context) error {
		_, err := rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}, wait)
		return err
	})
	return errors.Join(err, os.Remove(s.Dir+"/logs/"+spec.LogPath))
}

// use runs commands in a container and leaves a stream in the middle.
func (s *soak) use(rt runtimeapi.RuntimeServiceClient, ctr string) error {
	wait := grpc.WaitForReady(true)
	for range s.execs {
		err := again(func(ctx context.Context) error {
			r, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"/bin/workload", "exit", "3"}, Timeout: 60}, wait)
			if err == nil && r.ExitCode != 3 {
				return fmt.Errorf("exit code %d", r.ExitCode)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("ExecSync: %w", err)
		}
		s.ran.Add(1)
	}
	var link string
	err := again(func(ctx context.Context) error {
		r, err := rt.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: ctr, Cmd: []string{"/bin/workload", "sleep-forever"}, Stdin: true, Stdout: true}, wait)
		link = r.GetUrl()
		return err
	})
	if err != nil {
		return fmt.Errorf("Exec: %w", err)
	}
	s.abort(link)
	return nil
}

// abort begins a stream and breaks the connection. The daemon may be gone.
func (s *soak) abort(link string) {
	u, err := url.Parse(link)
	if err != nil {
		s.T.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := s.Node.Dial(ctx, "tcp", u.Host)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	req, _ := http.NewRequest("GET", u.String(), nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"c29ha2luZy1zb2FraW5nLQ=="}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io"}}
	if req.Write(conn) != nil {
		return
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		if !strings.Contains(string(body), "token") { // of a daemon that was killed
			s.T.Errorf("a stream: %s: %s", resp.Status, body)
		}
		return
	}
	s.aborted.Add(1)
}
