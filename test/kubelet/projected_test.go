package kubelet_test

import (
	"os"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func init() {
	withAPI["projected volumes"] = projected
	withAPI["image pull secret"] = pullSecret
	withAPI["in-place resize"] = resizeByAPI
}

var podName = []v1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}}

// projected: a token, a config map, a secret and the pod's own fields in one
// volume, which follows the config map; a file of it by its sub path does not.
func projected(t *testing.T, n *Node) {
	const api = "/api/v1/namespaces/default"
	configMap := func(text string) {
		n.server.put(api+"/configmaps/settings", toObject(v1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default"},
			Data: map[string]string{"setting": text}}))
	}
	configMap("first")
	n.server.put(api+"/secrets/secret", toObject(v1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "secret", Namespace: "default"},
		Data: map[string][]byte{"key": []byte("hidden")}}))
	mode := ptr.To[int32](0o440)
	settings := v1.LocalObjectReference{Name: "settings"}
	c := mounted(sh("c", "sleep 1000"), "projected", "/projected")
	c.VolumeMounts[0].ReadOnly = true
	c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: "projected", MountPath: "/one", SubPath: "setting"})
	p := n.create(t, v1.PodSpec{
		ServiceAccountName: "account",
		SecurityContext:    &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000)},
		Containers:         []v1.Container{c},
		Volumes: []v1.Volume{{Name: "projected", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: mode, Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](3600)}},
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: settings}},
			{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "secret"}}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: podName}},
		}}}}},
	})
	pod := p.ready()
	for path, want := range map[string]string{"/projected/token": "token of " + api + "/serviceaccounts/account",
		"/projected/setting": "first", "/projected/key": "hidden", "/projected/name": p.Name, "/one": "first"} {
		p.waitFile(pod, "c", path, want)
	}
	out, err := p.sync("c", "stat", "-L", "-c", "%a.%g", "/projected/key")
	if err != nil || out != "440.2000\n" {
		t.Errorf("mode and group of the secret: %q, %v", out, err)
	}
	if err := os.WriteFile(p.inside(pod, "c", "/projected/new"), nil, 0o644); err == nil {
		t.Error("the volume is mounted read-only, but a file was made")
	}
	configMap("second")
	p.waitFile(pod, "c", "/projected/setting", "second")
	p.waitFile(pod, "c", "/one", "first")
}

// pullSecret: a pod brings the credentials for its image.
func pullSecret(t *testing.T, n *Node) {
	n.Push("private", harness.TestImage(t, "probe"))
	n.Registry().BasicAuth(registryUser, registryPassword)
	n.server.put("/api/v1/namespaces/default/secrets/pull", toObject(v1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "pull", Namespace: "default"},
		Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: credentialsFor(unknown)}}))
	spec := func(with ...v1.LocalObjectReference) v1.PodSpec {
		c := work("c", "sleep-forever")
		c.Image, c.ImagePullPolicy = unknown+"/private:latest", v1.PullAlways
		return v1.PodSpec{ImagePullSecrets: with, Containers: []v1.Container{c}}
	}
	n.create(t, spec(v1.LocalObjectReference{Name: "pull"})).ready()
	n.create(t, spec()).until("a refusal", func(pod *v1.Pod) bool {
		w := status(pod, "c").State.Waiting
		return w != nil && w.Reason == "ErrImagePull"
	})
}

// resizeByAPI changes processor and memory of a running container, up and down;
// the pod's status tells what the kernel has.
func resizeByAPI(t *testing.T, n *Node) {
	c := work("c", "sleep-forever")
	c.Resources = v1.ResourceRequirements{Limits: quantities("200m", "64Mi")}
	p := n.create(t, v1.PodSpec{Containers: []v1.Container{c}})
	pod := p.ready()
	pid, group := p.pid(pod, "c"), p.containerGroup(pod, "c")
	for _, to := range []struct{ cpu, memory, quota, bytes string }{
		{"400m", "128Mi", "40000", "134217728"},
		{"100m", "32Mi", "10000", "33554432"},
	} {
		limits := quantities(to.cpu, to.memory)
		p.change(func(pod *v1.Pod) {
			pod.Generation++
			pod.Spec.Containers[0].Resources = v1.ResourceRequirements{Limits: limits, Requests: limits}
		})
		n.wait(t, "the new limits", func() bool {
			return quotaOf(t, group) == to.quota && memoryLimit.read(t, group) == to.bytes
		})
		pod = p.until("the status", func(pod *v1.Pod) bool {
			r := status(pod, "c").Resources
			return r != nil && r.Limits.Cpu().Equal(limits[v1.ResourceCPU]) && r.Limits.Memory().Equal(limits[v1.ResourceMemory])
		})
		equal(t, "process", p.pid(pod, "c"), pid)
		equal(t, "restarts", status(pod, "c").RestartCount, 0)
	}
}
