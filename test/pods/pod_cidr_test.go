package pods_test

import (
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet gives the range; no pod starts before.
func TestRangeFromTheKubelet(t *testing.T) {
	i := harness.New(t, harness.Args("--set", "network.pod_cidr=kubelet"))
	if c := networkReady(t, i); c.Status || !strings.Contains(c.Message, "UpdateRuntimeConfig") {
		t.Errorf("before the range came: %v", c)
	}
	_, err := i.TryRunPod(i.PodConfig())
	equal(t, "code of a pod before the range came", status.Code(err), codes.Unavailable)
	send := func(cidr string) error {
		_, err := i.Runtime.UpdateRuntimeConfig(i.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}}})
		return err
	}
	equal(t, "code of a range that is none", status.Code(send("10.1.2.3/24")), codes.InvalidArgument)
	if err := send("10.77.3.0/24,fd77:3::/64"); err != nil {
		t.Fatal(err)
	}
	equal(t, "NetworkReady", networkReady(t, i).Status, true)
	pod := i.RunPod()
	equal(t, "addresses", strings.Join(addresses(t, pod), " "), "10.77.3.1 fd77:3::1")
	i.Restart()
	equal(t, "NetworkReady after a restart", networkReady(t, i).Status, true)
	equal(t, "addresses of the next pod", strings.Join(addresses(t, i.RunPod()), " "), "10.77.3.2 fd77:3::2")
}

// bandwidth limits the pod's traffic both ways.
func bandwidth(rate string) harness.PodOption {
	return func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": rate, "kubernetes.io/egress-bandwidth": rate}
	}
}

func TestBandwidthAnnotations(t *testing.T) {
	i := harness.New(t)
	_, err := i.TryRunPod(i.PodConfig(bandwidth("fast")))
	equal(t, "code of a rate that is none", status.Code(err), codes.InvalidArgument)
	pod := i.RunPod(bandwidth("10M"))
	server := pod.Run("server", i.Image(probe), run("serve-http", "8080", "hello"))
	server.WaitOutput("ready")
	equal(t, "page from a limited pod", fetch(t, i.Node, addresses(t, pod)[0], 8080, "/"), "hello")
}
