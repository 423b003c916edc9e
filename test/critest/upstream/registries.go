// Package upstream runs upstream's critest against a cri-box of its own.
//
//	CRITEST=/path/to/critest go test ./test/critest/upstream
//
// The variables it knows: CRITEST, the binary, otherwise critest on PATH; IMAGES,
// "upstream" for the real registries; SEED, the order of a run to repeat; FOCUS,
// a regular expression, to run a part, whose skips are not judged.
package upstream

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/cri-box/cri-box/test/critest/images"
	"github.com/cri-box/cri-box/test/critest/proxy"
	"github.com/cri-box/cri-box/test/harness"
)

const (
	// registryAddress is the harness's own registry, in the node's namespace.
	registryAddress = "127.0.0.1:5000"
	// proxyAddress is where the node reaches the world with IMAGES=upstream.
	proxyAddress = "127.0.0.1:5001"
)

const hostsFile = `server = "https://%s"

[host."http://%s"]
capabilities = ["pull", "resolve"]
`

// mirrored lets every registry that upstream names resolve to the instance's own.
func mirrored(i *harness.Instance) {
	i.T.Helper()
	dir := i.T.TempDir()
	for _, host := range images.Hosts {
		if err := os.MkdirAll(filepath.Join(dir, host), 0o755); err != nil {
			i.T.Fatal(err)
		}
		file := fmt.Sprintf(hostsFile, host, registryAddress)
		if err := os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(file), 0o644); err != nil {
			i.T.Fatal(err)
		}
	}
	harness.Config(fmt.Sprintf("[image]\ncerts_dirs = [%q]\n", dir))(i)
}

// proxied lets serve reach the real registries: the node's network ends at its
// uplink, so a proxy inside it dials from where the test runs.
func proxied(i *harness.Instance) {
	i.T.Helper()
	i.Node.Serve(i.T, proxyAddress, http.HandlerFunc(proxy.Connect))
	harness.Env("HTTPS_PROXY=http://" + proxyAddress)(i)
}
