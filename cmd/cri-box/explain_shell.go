package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cri-box/cri-box/cmd/cri-box/explain"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// explainShell prints a script that makes a running container by hand.
func (c *client) explainShell(ctx context.Context, id string) error {
	resp, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return err
	}
	var info struct {
		SandboxID   string
		RuntimeSpec *specs.Spec
		Record      struct {
			Bundle struct{ Lowers []string }
		}
	}
	if err := json.Unmarshal([]byte(resp.Info["info"]), &info); err != nil {
		return fmt.Errorf("cannot read what the daemon says of container %s: %w", id, err)
	}
	f, err := c.facts(ctx, info.SandboxID)
	if err != nil {
		return err
	}
	f.Complete()
	for i := range f.Containers {
		if x := &f.Containers[i]; x.ID == id {
			if x.PID == 0 {
				return fmt.Errorf("cannot show how to make container %s by hand: it does not run", short(id))
			}
			r := explain.Recipe{Pod: &f.Pod, Container: x, Spec: info.RuntimeSpec, Lowers: info.Record.Bundle.Lowers}
			if r.Files, err = podFiles(x.PID); err != nil {
				return err
			}
			return r.Shell(os.Stdout)
		}
	}
	return fmt.Errorf("container %s is gone", id)
}

// maxPodFile bounds what is read of a file that the container can write, in bytes.
const maxPodFile = 64 << 10

// podFiles reads what the runtime or the kubelet wrote for a pod, as the container
// has it. No link leads out of its root.
func podFiles(pid int) (map[string]string, error) {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return nil, fmt.Errorf("cannot look into process %d: %w", pid, err)
	}
	defer root.Close()
	files := map[string]string{}
	for _, name := range []string{"etc/hosts", "etc/hostname", "etc/resolv.conf"} {
		f, err := root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read /%s of process %d: %w", name, pid, err)
		}
		text, err := io.ReadAll(io.LimitReader(f, maxPodFile))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot read /%s of process %d: %w", name, pid, err)
		}
		files["/"+name] = string(text)
	}
	return files, nil
}
