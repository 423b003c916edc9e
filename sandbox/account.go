package sandbox

import (
	"cmp"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An Account is how a pod stands now, also one that is still being made. It is
// had without waiting for anything that the pod waits for.
type Account struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"`
	UID       string    `json:"uid"`
	Ready     bool      `json:"ready"`
	Created   time.Time `json:"created"`
	// Doing is the step at which it is on its way up or down.
	Doing      *Stage             `json:"doing,omitempty"`
	Problem    string             `json:"problem,omitempty"`
	Containers []ContainerAccount `json:"containers,omitempty"`
}

// A ContainerAccount is how a container stands now.
type ContainerAccount struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Attempt uint32    `json:"attempt"`
	Image   string    `json:"image"`
	State   string    `json:"state"` // created, running or exited
	Created time.Time `json:"created"`
	Doing   *Stage    `json:"doing,omitempty"`
	End     *End      `json:"end,omitempty"`
}

// Accounts tells how every pod stands, by namespace and name.
func (m *Manager) Accounts() []Account {
	m.mu.Lock()
	defer m.mu.Unlock()
	byPod := map[string][]ContainerAccount{}
	for _, e := range m.containers {
		byPod[e.ctr.PodID] = append(byPod[e.ctr.PodID], e.account())
	}
	list := make([]Account, 0, len(m.pods))
	for id, e := range m.pods {
		meta := e.pod.Config.Of.GetMetadata()
		a := Account{ID: id, Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid(), Ready: e.pod.Ready(),
			Created: e.pod.CreatedAt, Doing: e.stage.now(), Problem: e.pod.Problem, Containers: byPod[id]}
		slices.SortFunc(a.Containers, func(x, y ContainerAccount) int { return x.Created.Compare(y.Created) })
		list = append(list, a)
	}
	slices.SortFunc(list, func(x, y Account) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), x.Created.Compare(y.Created))
	})
	return list
}

func (e *containerEntry) account() ContainerAccount {
	meta := e.ctr.Config.Of.GetMetadata()
	a := ContainerAccount{ID: e.ctr.ID, Name: meta.GetName(), Attempt: meta.GetAttempt(), Image: e.ctr.Image.Name,
		Created: e.ctr.CreatedAt, Doing: e.stage.now(), End: e.ctr.End}
	switch e.ctr.State() {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		a.State = "running"
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		a.State = "exited"
	default:
		a.State = "created"
	}
	return a
}
