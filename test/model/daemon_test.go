package model_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
	"github.com/cri-box/cri-box/test/model"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	clients = 3
	length  = 40  // of a sequence
	shrinks = 150 // replays of one that failed
)

// TestRandomCalls asks daemon and model the same. CRIBOX_MODEL_SECONDS is how
// long, CRIBOX_MODEL_SEED which calls.
func TestRandomCalls(t *testing.T) {
	seconds, err := strconv.Atoi(os.Getenv("CRIBOX_MODEL_SECONDS"))
	if err != nil {
		seconds = 15
	}
	seed, err := strconv.ParseUint(os.Getenv("CRIBOX_MODEL_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	d := newDaemon(t)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var wg sync.WaitGroup
	var failed atomic.Pointer[[]model.Call]
	var why atomic.Value
	var sum atomic.Int64
	for n := range clients {
		c := d.client(n)
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		wg.Go(func() {
			for time.Now().Before(end) && failed.Load() == nil {
				calls := model.Random(r, length)
				if err := c.play(calls); err != nil && failed.CompareAndSwap(nil, &calls) {
					why.Store(err)
				}
				sum.Add(length)
			}
		})
	}
	wg.Wait()
	t.Logf("seed %d: %d calls of %d clients, %d kills of serve, %d of the keeper", seed, sum.Load(), clients, d.serves.Load(), d.keepers.Load())
	if calls := failed.Load(); calls != nil {
		report(t, d, *calls, why.Load().(error))
	}
}

// report shrinks a sequence and prints it as a test.
func report(t *testing.T, d *daemon, calls []model.Call, why error) {
	c := d.client(clients)
	if alone := c.play(calls); alone == nil {
		t.Errorf("%v\nThe sequence fails only beside others:\n%s", why, goTest(calls))
		return
	}
	calls = model.Shrink(calls, shrinks, func(less []model.Call) bool {
		err := c.play(less)
		if err != nil {
			why = err
		}
		return err != nil
	})
	t.Errorf("%v\n%s", why, goTest(calls))
}

func goTest(calls []model.Call) string {
	var b strings.Builder
	b.WriteString("func TestFound(t *testing.T) {\n\treplay(t, []model.Call{\n")
	for _, c := range calls {
		fmt.Fprintf(&b, "\t\t%v,\n", c)
	}
	b.WriteString("\t})\n}\n")
	return b.String()
}

// replay is what a printed test calls.
func replay(t *testing.T, calls []model.Call) {
	t.Helper()
	if err := newDaemon(t).client(0).play(calls); err != nil {
		t.Error(err)
	}
}

// TestReplay keeps the form of printed tests alive, with all ops.
func TestReplay(t *testing.T) {
	replay(t, []model.Call{
		{model.RunPod, 0, 0},
		{model.Create, 0, 0},
		{model.Start, 0, 0},
		{model.KillServe, 0, 0},
		{model.Ask, 0, 0},
		{model.KillKeeper, 0, 0},
		{model.RunTwice, 0, 0},
		{model.RunOther, 0, 0},
		{model.KillProcess, 0, 0},
		{model.Ask, 0, 0},
		{model.CreateOther, 0, 0},
		{model.StopPod, 0, 0},
		{model.AskPod, 0, 0},
		{model.Stop, 0, 0},
		{model.Remove, 0, 0},
		{model.RemovePod, 0, 0},
	})
}

// A daemon is the instance that all clients ask.
type daemon struct {
	*harness.Instance
	image   string
	fate    sync.Mutex // one kill at a time
	serves  atomic.Int64
	keepers atomic.Int64
}

func newDaemon(t *testing.T) *daemon {
	i := harness.New(t)
	return &daemon{Instance: i, image: i.Image("probe")}
}

// A client has pods of its own, so that its answers do not depend on others.
type client struct {
	*daemon
	rt    runtimeapi.RuntimeServiceClient
	pods  [model.Pods]*runtimeapi.PodSandboxConfig
	podID [model.Pods]string
	ctrID [model.Pods][model.Containers]string
	// born is how many keepers had been killed when a container was started: one
	// whose keeper died may have ended unseen.
	born [model.Pods][model.Containers]int64
}

func (d *daemon) client(n int) *client {
	c := &client{daemon: d, rt: runtimeapi.NewRuntimeServiceClient(d.Dial())}
	for p := range c.pods {
		c.pods[p] = d.PodConfig()
		c.pods[p].Metadata.Uid = fmt.Sprintf("client-%d", n)
		if err := os.MkdirAll(c.pods[p].LogDirectory, 0o755); err != nil {
			d.T.Fatal(err)
		}
	}
	return c
}

// play makes the calls, compares, and leaves nothing.
func (c *client) play(calls []model.Call) error {
	for p := range c.podID {
		c.podID[p] = strings.Repeat("0", 64) // of nobody
		for k := range c.ctrID[p] {
			c.ctrID[p][k] = c.podID[p]
		}
	}
	var s model.State
	var err error
	for n, call := range calls {
		before := s
		want := s.Apply(call)
		if err = c.step(call, want, before, s); err != nil {
			err = fmt.Errorf("call %d, %v, in state %v: %w", n, call, before, err)
			break
		}
	}
	for p := range c.podID {
		if _, e := c.remove(p); e != nil && err == nil {
			err = fmt.Errorf("cannot clean up: %w", e)
		}
	}
	return err
}

// step makes one call and compares its answer, then what is seen of its object.
func (c *client) step(call model.Call, want codes.Code, before, after model.State) error {
	if got, err := c.do(call, before); got != want {
		return fmt.Errorf("%v, want %v: %v", got, want, err)
	}
	if err := c.comparePod(call.Pod, after.Pod[call.Pod]); err != nil {
		return err
	}
	return c.compareContainer(call.Pod, call.Ctr, after.Ctr[call.Pod][call.Ctr])
}

func (c *client) do(call model.Call, before model.State) (codes.Code, error) {
	p, k := call.Pod, call.Ctr
	switch call.Op {
	case model.RunPod:
		return c.run(p, c.pods[p])
	case model.RunTwice:
		return c.runTwice(p)
	case model.RunOther:
		return c.run(p, c.other(p, before))
	case model.StopPod:
		return c.again(func(ctx context.Context) error {
			_, err := c.rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: c.podID[p]}, grpc.WaitForReady(true))
			return err
		})
	case model.RemovePod:
		return c.remove(p)
	case model.AskPod:
		_, code, err := c.pod(p)
		return code, err
	case model.Create, model.CreateOther:
		return c.create(p, k, call.Op == model.CreateOther && before.Ctr[p][k] != model.None)
	case model.Start:
		return c.start(p, k, before.Ctr[p][k])
	case model.Stop:
		return c.again(func(ctx context.Context) error {
			_, err := c.rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.ctrID[p][k]}, grpc.WaitForReady(true))
			return err
		})
	case model.Remove:
		return c.again(func(ctx context.Context) error {
			_, err := c.rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ctrID[p][k]}, grpc.WaitForReady(true))
			return err
		})
	case model.Ask:
		_, code, err := c.container(p, k)
		return code, err
	}
	return c.fateful(call, before)
}

// fateful is what happens to processes.
func (c *client) fateful(call model.Call, before model.State) (codes.Code, error) {
	c.fate.Lock()
	defer c.fate.Unlock()
	switch call.Op {
	case model.KillProcess:
		if before.Ctr[call.Pod][call.Ctr] == model.Running {
			return c.killProcess(call.Pod, call.Ctr)
		}
	case model.KillServe:
		c.serves.Add(1)
		c.Kill()
		c.daemon.Start()
	case model.KillKeeper:
		pid := 0 // the one before may have been killed just now
		c.Wait("a keeper", func() bool { pid = c.Keeper(); return pid != 0 })
		syscall.Kill(pid, syscall.SIGKILL)
		// Until it is dead it may start what it will not see the end of.
		c.Wait("the keeper's end", func() bool { return !harness.Alive(pid) })
		c.keepers.Add(1)
	}
	return codes.OK, nil
}

// again makes a call until it is not lost with the one who should answer it.
func (c *client) again(call func(context.Context) error) (codes.Code, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := call(ctx)
		if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled {
			return code, err
		}
	}
}

func (c *client) run(p int, config *runtimeapi.PodSandboxConfig) (codes.Code, error) {
	return c.again(func(ctx context.Context) error {
		resp, err := c.rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config}, grpc.WaitForReady(true))
		if err == nil {
			c.podID[p] = resp.PodSandboxId
		}
		return err
	})
}

func (c *client) runTwice(p int) (codes.Code, error) {
	var ids [2]string
	var got [2]codes.Code
	var errs [2]error
	var wg sync.WaitGroup
	for n := range ids {
		wg.Go(func() {
			got[n], errs[n] = c.again(func(ctx context.Context) error {
				resp, err := c.rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: c.pods[p]}, grpc.WaitForReady(true))
				ids[n] = resp.GetPodSandboxId()
				return err
			})
		})
	}
	wg.Wait()
	if ids[0] != ids[1] || got[0] != got[1] {
		return codes.Unknown, fmt.Errorf("the same request twice gave %q, %v and %q, %v", ids[0], errs[0], ids[1], errs[1])
	}
	if got[0] == codes.OK {
		c.podID[p] = ids[0]
	}
	return got[0], errs[0]
}

// other is a configuration that is refused where the pod exists; where it does
// not, the pod's own.
func (c *client) other(p int, before model.State) *runtimeapi.PodSandboxConfig {
	if before.Pod[p] == model.None {
		return c.pods[p]
	}
	return &runtimeapi.PodSandboxConfig{Metadata: c.pods[p].Metadata, Hostname: "other", LogDirectory: c.pods[p].LogDirectory, Linux: c.pods[p].Linux}
}

func (c *client) remove(p int) (codes.Code, error) {
	return c.again(func(ctx context.Context) error {
		_, err := c.rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: c.podID[p]}, grpc.WaitForReady(true))
		return err
	})
}

func (c *client) create(p, k int, other bool) (codes.Code, error) {
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprintf("c%d", k)}, Image: &runtimeapi.ImageSpec{Image: c.image},
		Command: []string{"/bin/workload", "sleep-forever"}, LogPath: fmt.Sprintf("c%d.log", k),
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: c.pods[p].Linux.SecurityContext.NamespaceOptions}},
	}
	if other {
		config.Labels = map[string]string{"other": "yes"}
	}
	return c.again(func(ctx context.Context) error {
		resp, err := c.rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: c.podID[p], Config: config, SandboxConfig: c.pods[p]}, grpc.WaitForReady(true))
		if err == nil {
			c.ctrID[p][k] = resp.ContainerId
		}
		return err
	})
}

// start is the one call that is not idempotent: where an answer was lost, a
// container that was only created may run already.
func (c *client) start(p, k int, before model.Life) (codes.Code, error) {
	tries := 0
	if before == model.Created { // else it is refused, and the keeper of its only start stays its parent
		c.born[p][k] = c.keepers.Load()
	}
	code, err := c.again(func(ctx context.Context) error {
		tries++
		_, err := c.rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ctrID[p][k]}, grpc.WaitForReady(true))
		return err
	})
	if code == codes.FailedPrecondition && tries > 1 && before == model.Created {
		if s, _, _ := c.container(p, k); s.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return codes.OK, nil
		}
	}
	return code, err
}

func (c *client) pod(p int) (*runtimeapi.PodSandboxStatus, codes.Code, error) {
	var resp *runtimeapi.PodSandboxStatusResponse
	code, err := c.again(func(ctx context.Context) (err error) {
		resp, err = c.rt.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: c.podID[p]}, grpc.WaitForReady(true))
		return err
	})
	return resp.GetStatus(), code, err
}

func (c *client) container(p, k int) (*runtimeapi.ContainerStatus, codes.Code, error) {
	resp, code, err := c.verbose(p, k)
	return resp.GetStatus(), code, err
}

func (c *client) verbose(p, k int) (resp *runtimeapi.ContainerStatusResponse, code codes.Code, err error) {
	code, err = c.again(func(ctx context.Context) (err error) {
		resp, err = c.rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.ctrID[p][k], Verbose: true}, grpc.WaitForReady(true))
		return err
	})
	return resp, code, err
}

// killProcess kills the container's process and waits until the daemon says so.
func (c *client) killProcess(p, k int) (codes.Code, error) {
	resp, code, err := c.verbose(p, k)
	var info struct{ PID int }
	if err != nil || json.Unmarshal([]byte(resp.Info["info"]), &info) != nil || info.PID <= 1 {
		return code, fmt.Errorf("no pid in %q: %w", resp.GetInfo()["info"], err)
	}
	syscall.Kill(info.PID, syscall.SIGKILL)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if s, _, _ := c.container(p, k); s.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			return codes.OK, nil
		}
	}
	return codes.Unknown, fmt.Errorf("process %d was killed, and the container runs on", info.PID)
}

func (c *client) comparePod(p int, want model.Life) error {
	s, code, err := c.pod(p)
	got := map[bool]model.Life{true: model.Ready, false: model.Stopped}[s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY]
	if code == codes.NotFound {
		got, err = model.None, nil
	}
	if err != nil || got != want {
		return fmt.Errorf("then pod %d is %v (%v), want %v: %w", p, got, s.GetState(), want, err)
	}
	return nil
}

var lives = map[runtimeapi.ContainerState]model.Life{runtimeapi.ContainerState_CONTAINER_CREATED: model.Created,
	runtimeapi.ContainerState_CONTAINER_RUNNING: model.Running, runtimeapi.ContainerState_CONTAINER_EXITED: model.Exited}

func (c *client) compareContainer(p, k int, want model.Life) error {
	s, code, err := c.container(p, k)
	got := lives[s.GetState()]
	if code == codes.NotFound {
		got, err = model.None, nil
	}
	if err != nil || got != want {
		return fmt.Errorf("then container %d of pod %d is %v (%v), want %v: %w", k, p, got, s, want, err)
	}
	unseen := s.GetExitCode() == 255 && s.GetReason() == "Unknown" && c.born[p][k] != c.keepers.Load()
	if got == model.Exited && s.ExitCode != 137 && !unseen {
		return fmt.Errorf("container %d of pod %d, which was killed: code %d, reason %q, message %q", k, p, s.ExitCode, s.Reason, s.Message)
	}
	if got == model.Exited && (s.FinishedAt < s.StartedAt || s.StartedAt < s.CreatedAt) {
		return fmt.Errorf("created %d, started %d, finished %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
	}
	return nil
}
