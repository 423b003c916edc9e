package routed_test

import (
	"testing"

	"github.com/cri-box/cri-box/network"
	"github.com/cri-box/cri-box/network/networktest"
	"github.com/cri-box/cri-box/network/routed"
)

func TestContract(t *testing.T) {
	dirs := map[testing.TB]string{}
	networktest.Contract(t, func(t testing.TB) network.Network {
		if dirs[t] == "" {
			dirs[t] = t.TempDir()
		}
		n, err := routed.Open(routed.Config{Instance: "cri-box", StateDir: dirs[t]})
		if err != nil {
			t.Fatal(err)
		}
		return n
	})
}
