package sandbox

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/oci/cgroup"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/sandbox/record"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var containerKind = record.Kind{Name: "container", Version: 1}

// A Container is a container as its record has it; see Pod.
type Container struct {
	ID     string                               `json:"id"`
	PodID  string                               `json:"pod_id"`
	BootID string                               `json:"boot_id"`
	Config Message[*runtimeapi.ContainerConfig] `json:"config"`
	Bundle oci.Bundle                           `json:"bundle"`
	Image  ImageUse                             `json:"image"`
	User   spec.User                            `json:"user"`
	Stop   StopSignal                           `json:"stop_signal"`
	// Updated has, once UpdateContainerResources changed something, all limits as
	// they are now; Config keeps those of the request that made the container.
	Updated *Message[*runtimeapi.UpdateContainerResourcesRequest] `json:"updated,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	// Made is set once everything of the container is there.
	Made      bool      `json:"made"`
	StartedAt time.Time `json:"started_at,omitzero"`
	// PID is the process as the host sees it, PIDStart its start time in clock
	// ticks since boot (proc(5), field 22): together they name one process.
	PID      int    `json:"pid,omitempty"`
	PIDStart uint64 `json:"pid_start,omitempty"`
	End      *End   `json:"end,omitempty"`
}

// ImageUse is the image that a container runs.
type ImageUse struct {
	ID   string `json:"id"`
	Name string `json:"name"` // as the request had it
	// Layers stay on disk as long as the container does, whatever becomes of
	// the image; those of the image volumes are among them.
	Layers []digest.Digest `json:"layers"`
}

// StopSignal is what asks a container to end.
type StopSignal struct {
	Number int               `json:"number"`
	CRI    runtimeapi.Signal `json:"cri"`
}

// An End is how a container ended, or why it never ran.
type End struct {
	At      time.Time `json:"at"`
	Code    int       `json:"code"`
	Reason  string    `json:"reason"`
	Message string    `json:"message,omitempty"`
}

// Reasons in ContainerStatus.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError"
	ReasonUnknown    = "Unknown"
)

// State derives the CRI's state from what happened.
func (c *Container) State() runtimeapi.ContainerState {
	switch {
	case c.End != nil:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case !c.StartedAt.IsZero():
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return runtimeapi.ContainerState_CONTAINER_CREATED
}

// Resources are the container's limits as they are now.
func (c *Container) Resources() *runtimeapi.LinuxContainerResources {
	if c.Updated != nil {
		return c.Updated.Of.GetLinux()
	}
	return c.Config.Of.GetLinux().GetResources()
}

// Mounts are those of the request, images with what they turned out to be.
func (c *Container) Mounts() []*runtimeapi.Mount {
	mounts := slices.Clone(c.Config.Of.GetMounts())
	for i, m := range mounts {
		if v, ok := c.Bundle.Images[c.imageSource(i)]; ok {
			m = proto.Clone(m).(*runtimeapi.Mount)
			m.Image.ImageRef = v.ID
			mounts[i] = m
		}
	}
	return mounts
}

// imageSource finds the source of the mount i, if it is an image.
func (c *Container) imageSource(i int) string {
	for source := range c.Bundle.Images {
		if filepath.Base(source) == strconv.Itoa(i) {
			return source
		}
	}
	return ""
}

func containerKey(podID string, c *runtimeapi.ContainerConfig) string {
	return fmt.Sprintf("%s/%s/%d", podID, c.GetMetadata().GetName(), c.GetMetadata().GetAttempt())
}

func (m *Manager) containerDir(id string) string {
	return filepath.Join(m.cfg.RootDir, "containers", id)
}

// cgroupPath is the container's group: a leaf named by its id.
func cgroupPath(parent, id string) string { return cgroup.GroupPath(parent, id) }

// ownPIDs tells whether the container has a PID namespace to itself, which the
// kernel empties when its first process ends.
func (c *Container) ownPIDs() bool {
	return c.Config.Of.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == runtimeapi.NamespaceMode_CONTAINER
}
