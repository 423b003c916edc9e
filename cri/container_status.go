package cri

import (
	"context"
	"encoding/json"
	"time"

	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/sandbox"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStatus describes one container.
func (s *Server) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.Sandboxes.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: s.containerStatus(c)}
	if r.GetVerbose() {
		resp.Info, err = s.containerInfo(c)
	}
	return resp, err
}

func (s *Server) containerStatus(c *sandbox.Container) *runtimeapi.ContainerStatus {
	cfg := c.Config.Of
	st := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: cfg.GetMetadata(), State: c.State(), CreatedAt: c.CreatedAt.UnixNano(),
		Image: imageSpec(c), ImageRef: c.Image.ID, ImageId: c.Image.ID,
		Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations(), Mounts: c.Mounts(), LogPath: c.Bundle.LogPath,
		Resources: &runtimeapi.ContainerResources{Linux: c.Resources()},
		User:      containerUser(c.User), StopSignal: c.Stop.CRI, StartedAt: nanos(c.StartedAt),
	}
	if c.End != nil {
		st.FinishedAt, st.ExitCode = nanos(c.End.At), int32(c.End.Code)
		st.Reason, st.Message = c.End.Reason, c.End.Message
	}
	return st
}

func imageSpec(c *sandbox.Container) *runtimeapi.ImageSpec {
	asked := c.Config.Of.GetImage()
	return &runtimeapi.ImageSpec{Image: c.Image.Name, Annotations: asked.GetAnnotations(),
		UserSpecifiedImage: asked.GetUserSpecifiedImage(), RuntimeHandler: asked.GetRuntimeHandler(), ImageRef: asked.GetImageRef()}
}

func containerUser(u spec.User) *runtimeapi.ContainerUser {
	l := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.Groups {
		l.SupplementalGroups = append(l.SupplementalGroups, int64(g))
	}
	return &runtimeapi.ContainerUser{Linux: l}
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// containerInfo is what crictl inspect shows more.
func (s *Server) containerInfo(c *sandbox.Container) (map[string]string, error) {
	runtimeSpec, err := s.Sandboxes.Spec(c.ID)
	if err != nil {
		return nil, err
	}
	info := struct {
		PID         int                `json:"pid"`
		SandboxID   string             `json:"sandboxID"`
		RuntimeSpec *specs.Spec        `json:"runtimeSpec"`
		Config      any                `json:"config"`
		Record      *sandbox.Container `json:"record"`
	}{c.PID, c.PodID, runtimeSpec, c.Config, c}
	if c.End != nil {
		info.PID = 0
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return map[string]string{"info": string(b)}, nil
}
