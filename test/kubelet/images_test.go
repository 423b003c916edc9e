package kubelet_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
)

// The node's registry has one user, whom the kubelet knows under one of the
// registry's two names.
const (
	registryUser     = "puller"
	registryPassword = "of images"
	known, unknown   = "127.0.0.1:5000", "localhost:5000"
)

// credentials is a Docker configuration, which the kubelet looks for in its root.
func credentials() []byte { return credentialsFor(known) }

func credentialsFor(registry string) []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + registryPassword))
	return fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, registry, auth)
}

// TestCredentials: a private image comes with the kubelet's credentials and not
// without.
func TestCredentials(t *testing.T) {
	n := newNode(t, setup{})
	n.Push("private", harness.TestImage(t, "probe"))
	n.Registry().BasicAuth(registryUser, registryPassword)
	spec := func(registry string) v1.PodSpec {
		c := work("c", "sleep-forever")
		c.Image, c.ImagePullPolicy = registry+"/private:latest", v1.PullAlways
		return v1.PodSpec{Containers: []v1.Container{c}}
	}
	refused := n.run(t, spec(unknown))
	n.run(t, spec(known)).ready()
	pod := refused.until("a refusal", func(pod *v1.Pod) bool {
		w := status(pod, "c").State.Waiting
		return w != nil && w.Reason == "ErrImagePull"
	})
	message := status(pod, "c").State.Waiting.Message
	if !strings.Contains(message, "authorization") {
		t.Errorf("the message does not say what was missing: %q", message)
	}
	if strings.Contains(message, registryPassword) {
		t.Errorf("the message tells the password: %q", message)
	}
}
