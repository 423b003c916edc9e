package harness

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// finish removes the test's pods, ends serve and keeper, and looks for what is left.
func (i *Instance) finish() {
	if i.conn == nil { // it was never ready; New has said so
		if i.Running() {
			i.Kill()
		}
	} else {
		if !i.Running() {
			i.Start() // a test that killed it leaves the cleaning to the next serve
		}
		i.removePods()
		i.fail(afterAll(i.leftInCustody))
		afterAll(i.leftSlices) // a slice that systemd made late is serve's to find
		if state := i.Stop(); state.ExitCode() != 0 {
			i.T.Errorf("serve ended with %v", state)
		}
	}
	i.stopKeeper()
	left := afterAll(i.leftovers)
	i.fail(left)
	i.sweep(left)
	i.checkLogs()
	if i.T.Failed() {
		i.T.Log(i.logTail())
	}
}

func (i *Instance) fail(left []Leftover) {
	for _, l := range left {
		i.T.Errorf("left over: %v", l)
	}
}

// checkLogs looks for what a program says of itself when it is wrong, also where
// it went on or was started again.
func (i *Instance) checkLogs() {
	for _, name := range []string{i.Log(), filepath.Join(i.State, "keeper.log")} {
		text, _ := os.ReadFile(name)
		for _, bad := range []string{"WARNING: DATA RACE", "\npanic: ", "\nfatal error: "} {
			if at := strings.Index("\n"+string(text), bad); at >= 0 {
				i.T.Errorf("%s says:\n%.4000s", filepath.Base(name), text[max(0, at-1):])
			}
		}
	}
}

func (i *Instance) removePods() {
	list, err := i.Runtime.ListPodSandbox(i.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		i.T.Errorf("cannot list the pods to remove: %v", err)
		return
	}
	for _, pod := range list.Items {
		if _, err := i.Runtime.StopPodSandbox(i.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			i.T.Errorf("cannot stop pod %s: %v", pod.Id, err)
		}
		if _, err := i.Runtime.RemovePodSandbox(i.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			i.T.Errorf("cannot remove pod %s: %v", pod.Id, err)
		}
	}
}

// stopKeeper ends the keeper, which outlives serve by design; its spawners end
// with it.
func (i *Instance) stopKeeper() {
	pid := i.Keeper()
	if pid == 0 {
		return
	}
	mine := append(Children(pid), pid)
	syscall.Kill(pid, syscall.SIGTERM)
	gone := func() bool {
		for _, p := range mine {
			if Alive(p) {
				return false
			}
		}
		return true
	}
	if !within(stopTimeout, gone) {
		i.T.Errorf("keeper %d or a child of it did not end within %v of SIGTERM", pid, stopTimeout)
	}
}

// sweep takes leftovers away, so that they do not disturb the next test. The
// test has failed already; what cannot be taken away stays.
func (i *Instance) sweep(left []Leftover) {
	for _, l := range left {
		switch l.Kind {
		case "process":
			syscall.Kill(l.pid, syscall.SIGKILL)
			within(stopTimeout, func() bool { return !Alive(l.pid) })
		case "mount":
			syscall.Unmount(l.Name, syscall.MNT_DETACH)
		case "netns", "cgroup":
			os.Remove(l.Name)
		}
	}
}
