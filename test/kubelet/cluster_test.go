package kubelet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// withAPI are scenarios of pods that come from an API server.
var withAPI = map[string]func(*testing.T, *Node){}

// TestAPIPods runs them side by side.
func TestAPIPods(t *testing.T) {
	n := newNode(t, setup{api: true, kubelet: "configMapAndSecretChangeDetectionStrategy: Get\nsyncFrequency: 2s"})
	sideBySide(t, n, withAPI)
}

// create makes a pod by the API.
func (n *Node) create(t testing.TB, spec v1.PodSpec) *Pod {
	t.Helper()
	number := n.made.Add(1)
	name := fmt.Sprintf("pod-%d", number)
	p := &Pod{Node: n, t: t, Name: name, uid: n.uid(number)}
	complete(&spec)
	completeForAPI(&spec)
	pod := v1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(p.uid), CreationTimestamp: metav1.Now()},
		Spec:       spec,
		Status:     v1.PodStatus{Phase: v1.PodPending},
	}
	n.server.put(p.path(), toObject(pod))
	return p
}

// completeForAPI fills in what an API server fills in and a kubelet takes for granted.
func completeForAPI(spec *v1.PodSpec) {
	spec.NodeName, spec.DNSPolicy = nodeName, v1.DNSDefault
	if spec.RestartPolicy == "" {
		spec.RestartPolicy = v1.RestartPolicyAlways
	}
	if spec.SecurityContext == nil {
		spec.SecurityContext = &v1.PodSecurityContext{}
	}
	spec.EnableServiceLinks = ptr.To(false)
	for i := range spec.Containers {
		c := &spec.Containers[i]
		c.TerminationMessagePath, c.TerminationMessagePolicy = v1.TerminationMessagePathDefault, v1.TerminationMessageReadFile
		if c.Resources.Requests == nil {
			c.Resources.Requests = c.Resources.Limits
		}
	}
}

// path is where the API has the pod.
func (p *Pod) path() string { return "/api/v1/namespaces/default/pods/" + p.Name }

// change changes the pod as the API has it.
func (p *Pod) change(how func(*v1.Pod)) {
	p.t.Helper()
	if !p.server.edit(p.path(), how) {
		p.t.Fatalf("the API has no pod %s", p.Name)
	}
}

// edit changes a pod while nobody else does.
func (s *apiServer) edit(path string, how func(*v1.Pod)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var pod v1.Pod
	if !decode(s.objects[path], &pod) {
		return false
	}
	how(&pod)
	s.tell("MODIFIED", path, toObject(pod))
	return true
}

// endPod asks for a pod's end, as kubectl delete does; the kubelet then removes it.
func (s *apiServer) endPod(path string) {
	s.edit(path, func(pod *v1.Pod) {
		if pod.DeletionTimestamp != nil {
			return
		}
		grace := pod.Spec.TerminationGracePeriodSeconds
		pod.DeletionTimestamp = ptr.To(metav1.NewTime(time.Now().Add(time.Duration(*grace) * time.Second)))
		pod.DeletionGracePeriodSeconds = grace
	})
}

// endPods asks for the end of all of them.
func (s *apiServer) endPods() {
	s.mu.Lock()
	var paths []string
	for path := range s.objects {
		if strings.Contains(path, "/pods/") {
			paths = append(paths, path)
		}
	}
	s.mu.Unlock()
	for _, path := range paths {
		s.endPod(path)
	}
}
