package routed_test

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/networktest"
	"github.com/cri-box/cri-box/network/routed"
)

func TestContract(t *testing.T) {
	networktest.Contract(t, opener(func(_ testing.TB, n *routed.Network) network.Network { return n }))
}

// TestContractWithLinksMadeAhead is the same with every link made before its pod.
func TestContractWithLinksMadeAhead(t *testing.T) {
	networktest.Contract(t, opener(func(t testing.TB, n *routed.Network) network.Network { return ahead{n, t} }))
}

func opener(as func(testing.TB, *routed.Network) network.Network) func(t testing.TB) network.Network {
	dirs := map[testing.TB]string{}
	return func(t testing.TB) network.Network {
		if dirs[t] == "" {
			dirs[t] = t.TempDir()
		}
		n, err := routed.Open(routed.Config{Instance: "cri-box", StateDir: dirs[t]})
		if err != nil {
			t.Fatal(err)
		}
		return as(t, n)
	}
}

// ahead makes a link for each namespace that has none.
type ahead struct {
	*routed.Network
	t testing.TB
}

func (a ahead) Attach(ctx context.Context, pod network.Pod) (network.Result, error) {
	link, err := a.Ahead(ctx, pod.ID, pod.NetNS)
	switch {
	case err == nil:
		pod.Link = link
	case !errors.Is(err, unix.EEXIST): // the pod is attached already
		a.t.Error(err)
	}
	return a.Network.Attach(ctx, pod)
}
