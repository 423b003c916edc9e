package faults_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestKilledUnderLoad kills spawners, the keeper and serve, each several times, while
// containers write as fast as they can and commands run in them. No line is lost or
// written twice, no exit code is wrong, no namespace is another.
func TestKilledUnderLoad(t *testing.T) {
	i := harness.New(t)
	image := i.Image("busybox")
	pod := i.RunPod()
	var writers []*harness.Container
	for n := range 2 {
		writers = append(writers, pod.Run(fmt.Sprint("writer", n), image, []string{"/bin/sh", "-c", "trap 'exit 0' TERM; i=0; while :; do echo $i; i=$((i+1)); done"}))
	}
	net, pid := harness.Namespace(writers[0].PID(), "net"), writers[0].PID()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range writers {
		wg.Go(func() {
			if n, err := commands(i, c.ID, stop); err != nil || n == 0 {
				t.Errorf("after %d commands: %v", n, err)
			}
		})
	}
	for range 3 {
		killSpawners(i)
		i.KillKeeper()
		i.Wait("another keeper", func() bool { return i.Keeper() != 0 })
		killSpawners(i)
		i.Kill()
		i.Start()
		i.KillKeeper()
		i.Kill() // perhaps while it hands over
		i.Start()
	}
	close(stop)
	wg.Wait()
	if got := writers[0].PID(); got != pid {
		t.Errorf("a writer is process %d, it was %d", got, pid)
	}
	if got := harness.Namespace(pod.Run("late", image, []string{"/bin/workload", "sleep-forever"}).PID(), "net"); got != net {
		t.Errorf("a later container is in network namespace %s, the pod's is %s", got, net)
	}
	for _, c := range writers {
		c.Stop(30)
		whole(t, c.Output("stdout"))
	}
}

func killSpawners(i *harness.Instance) {
	for _, pid := range harness.Children(i.Keeper()) {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(args), "cri-box\x00spawner\x00") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// commands runs one command after the other in a container until stop, and says
// how many. One that a kill hit is tried again.
func commands(i *harness.Instance, id string, stop chan struct{}) (n int, err error) {
	rt := runtimeapi.NewRuntimeServiceClient(i.Dial())
	for {
		select {
		case <-stop:
			return n, nil
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		r, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/workload", "exit", "3"}, Timeout: 60}, grpc.WaitForReady(true))
		cancel()
		switch code := status.Code(err); {
		case code == codes.Unavailable || code == codes.Canceled:
		case err != nil:
			return n, err
		case r.ExitCode != 3:
			return n, fmt.Errorf("exit code %d", r.ExitCode)
		default:
			n++
		}
	}
}
