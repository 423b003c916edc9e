package sandbox

import (
	"path/filepath"
	"testing"

	"github.com/cri-box/cri-box/oci"
	"github.com/cri-box/cri-box/sandbox/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestEarlierVersions reads records as earlier versions wrote them. These files
// are never written anew: a change of the form gets a directory of its own.
func TestEarlierVersions(t *testing.T) {
	dir := filepath.Join("testdata", "version-1")
	var p Pod
	if err := podKind.Load(filepath.Join(dir, "pod"), &p); err != nil {
		t.Fatal(err)
	}
	if len(p.ID) != 64 || p.BootID == "" || !p.Ready() || p.Config.Of.GetMetadata().GetName() != "pod-1" || len(p.Network.IPs) == 0 || p.CgroupParent == "" {
		t.Errorf("pod %+v", p)
	}
	var c Container
	if err := containerKind.Load(filepath.Join(dir, "container"), &c); err != nil {
		t.Fatal(err)
	}
	if c.PodID != p.ID || !c.Made || c.PID == 0 || c.PIDStart == 0 || len(c.Image.Layers) == 0 || c.Config.Of.GetMetadata().GetName() != "c" {
		t.Errorf("container %+v", c)
	}
	if c.State() != runtimeapi.ContainerState_CONTAINER_EXITED || c.End.Code != 7 || c.End.Reason != ReasonError || c.Bundle.LogPath == "" || c.Bundle.ID != c.ID {
		t.Errorf("end %+v, bundle %+v", c.End, c.Bundle)
	}
}

// TestOfALaterVersion: a field that a later version added does not matter; a
// later version of the form does, and the error says so.
func TestOfALaterVersion(t *testing.T) {
	dir := t.TempDir()
	type later struct {
		Container
		New string `json:"new_field"`
	}
	v := later{Container: Container{ID: "x", Config: Message[*runtimeapi.ContainerConfig]{&runtimeapi.ContainerConfig{}}, Bundle: oci.Bundle{ID: "x"}}, New: "?"}
	if err := containerKind.Save(dir, v); err != nil {
		t.Fatal(err)
	}
	var c Container
	if err := containerKind.Load(dir, &c); err != nil || c.ID != "x" {
		t.Errorf("%v, %+v", err, c)
	}
	if err := (record.Kind{Name: containerKind.Name, Version: containerKind.Version + 1}).Save(dir, v); err != nil {
		t.Fatal(err)
	}
	if err := containerKind.Load(dir, &c); err == nil {
		t.Error("a record of a later form was read")
	}
}
