package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inspect is the verbose part of a container's status.
func inspect(i *harness.Instance, id string) string {
	i.T.Helper()
	resp, err := i.Runtime.ContainerStatus(i.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		i.T.Fatal(err)
	}
	return resp.Info["info"]
}

// TestImages: pull, list, remove.
func TestImages(t *testing.T) {
	i := harness.New(t)
	img := harness.TestImage(t, busybox)
	ref := i.Push(busybox, img)
	if id := must(i, "images", "pull", ref); id != img.ID()+"\n" {
		t.Errorf("pull prints %q, the image is %s", id, img.ID())
	}
	if table := must(i, "images", "ls"); !strings.Contains(table, ref+"  "+img.ID()[7:19]+"  ") || !strings.Contains(table, " MiB") {
		t.Errorf("ls prints\n%s", table)
	}
	var list []struct{ ID string }
	if err := json.Unmarshal([]byte(must(i, "images", "ls", "-o", "json")), &list); err != nil || len(list) != 1 || list[0].ID != img.ID() {
		t.Errorf("ls -o json: %v %v", list, err)
	}
	must(i, "images", "rm", ref)
	if r := cli(i, "images", "rm", ref); r.code != 1 || !strings.Contains(r.err, "there is no image") {
		t.Errorf("removing what is not there: %+v", r)
	}
	if r := cli(i, "images", "pull", "127.0.0.1:1/x"); r.code != 1 || !strings.HasPrefix(r.err, "cri-box: RegistryUnavailable: cannot pull 127.0.0.1:1/x") {
		t.Errorf("pull from where nobody is: %+v", r)
	}
	if r := cli(i, "images", "pull", ref+"x"); r.code != 1 || !strings.Contains(r.err, "not found") {
		t.Errorf("pull of what is not there: %+v", r)
	}
}

// TestPullProgress: while an image comes, the terminal, the log and the metrics
// say how far it is.
func TestPullProgress(t *testing.T) {
	i := harness.New(t)
	content := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{}).Read(content) // that does not compress
	img := imagetest.New().File("/file", 0o644, content).Build()
	ref, layer := i.Push("big", img), img.Manifest.Layers[0].Digest
	goOn := make(chan struct{})
	i.Registry().Break(imagetest.Fault{Path: layer.String(), Do: func(w http.ResponseWriter, _ *http.Request) {
		data := img.Blob(layer)
		w.Write(data[:len(data)/2])
		http.NewResponseController(w).Flush()
		<-goOn
		w.Write(data[len(data)/2:])
	}})
	master, slave, err := harness.OpenPTY()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	cmd := i.Command("--state", i.State, "images", "pull", ref)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	shown := ""
	for buf := make([]byte, 4096); !strings.Contains(shown, " [###############...............] 1.0 MiB of 2.0 MiB, 0 of 1 layers"); {
		n, err := master.Read(buf)
		if shown += string(buf[:n]); err != nil {
			t.Fatalf("%v after %q", err, shown)
		}
	}
	metrics := get(t, i, "/metrics")
	if n := value(t, metrics, "cri_box_pulls_in_progress"); n != 1 {
		t.Errorf("%v pulls are under way", n)
	}
	received, total := value(t, metrics, `cri_box_pull_bytes{part="received"}`), value(t, metrics, `cri_box_pull_bytes{part="total"}`)
	if received < 1<<20 || received >= total || total != float64(img.Manifest.Layers[0].Size) {
		t.Errorf("%v of %v bytes are here", received, total)
	}
	log, err := os.ReadFile(i.Log())
	if want := fmt.Sprintf("msg=pulling image=%s bytes=", ref); err != nil || !strings.Contains(string(log), want) || !strings.Contains(string(log), " layers_done=0 layers=1\n") {
		t.Errorf("%v, no %q in the log", err, want)
	}
	close(goOn)
	go io.Copy(io.Discard, master)
	if err := cmd.Wait(); err != nil || out.String() != img.ID()+"\n" {
		t.Errorf("it ended with %v and %q", err, &out)
	}
	if n := value(t, get(t, i, "/metrics"), "cri_box_pulls_in_progress"); n != 0 {
		t.Errorf("%v pulls are under way after its end", n)
	}
}

// TestImagesExplain: the hosts in order, with what hosts.toml says of each.
func TestImagesExplain(t *testing.T) {
	certs := t.TempDir()
	dir := filepath.Join(certs, "example.org")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := "server = 'https://example.org'\n[host.'http://mirror.test:5000']\ncapabilities = ['pull']\n[host.'https://other.test']\nskip_verify = true\n[host.'https://other.test'.header]\nX-Token = 'very-secret'\n"
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	i := harness.New(t, harness.Config(fmt.Sprintf("image.certs_dirs = [%q]", certs)), harness.Env("HTTPS_PROXY=http://user:very-secret@proxy.test:3128"))
	out := must(i, "images", "explain", "-o", "json", "example.org/a/b")
	var plan image.Plan
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", plan)
	want := fmt.Sprintf("%+v", image.Plan{Name: "example.org/a/b:latest", Directory: dir, Hosts: []image.Host{
		{URL: "http://mirror.test:5000/v2", TLS: "none"},
		{URL: "https://other.test/v2", Resolve: true, TLS: "not checked", Proxy: "http://proxy.test:3128", Headers: []string{"X-Token"}},
		{URL: "https://example.org/v2", Resolve: true, TLS: "system", Proxy: "http://proxy.test:3128"},
	}})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if table := must(i, "images", "explain", "example.org/a/b"); strings.Contains(table+out, "very-secret") {
		t.Errorf("a secret is shown:\n%s", table)
	}
	if out := must(i, "images", "explain", "busybox"); !strings.Contains(out, "docker.io/library/busybox:latest") || !strings.Contains(out, "https://registry-1.docker.io/v2") {
		t.Errorf("a short name:\n%s", out)
	}
}

// TestPinnedReload: a pattern that is added while the daemon runs counts for the
// images that are there.
func TestPinnedReload(t *testing.T) {
	i := harness.New(t, harness.Config(""))
	ref := i.Image(busybox)
	pinned := func() bool {
		resp, err := i.Images.ImageStatus(i.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetImage().GetPinned()
	}
	if pinned() {
		t.Error("it is pinned already")
	}
	reload(i, "image.pinned = ['*/busybox:*']", func(c configuration) bool { return c.Values["image.pinned"] != "[]" })
	if !pinned() {
		t.Error("the pattern has no effect")
	}
}
