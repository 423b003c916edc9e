package image

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// A Plan is what a pull of a name would do. Nothing was asked of any registry.
type Plan struct {
	// Name is the whole name, as Docker completes it.
	Name string `json:"name"`
	// Directory has the registry's hosts.toml or certificates; empty: none of
	// CertsDirs knows the registry.
	Directory string `json:"directory"`
	// Hosts are asked in this order.
	Hosts []Host `json:"hosts"`
}

// Host is one address that a pull asks.
type Host struct {
	URL string `json:"url"`
	// Resolve: it is asked what a tag means. Without, it gives only what has a digest.
	Resolve bool `json:"resolve"`
	// TLS says how the host is known: "system" or "own" authorities, "not
	// checked", or "none" for HTTP.
	TLS string `json:"tls"`
	// ClientCertificate says that we show one.
	ClientCertificate bool `json:"clientCertificate"`
	// Proxy is the address of the proxy, without its credentials; empty for none.
	Proxy string `json:"proxy,omitempty"`
	// Headers are the names of those that hosts.toml adds.
	Headers []string `json:"headers,omitempty"`
}

// Explain tells what a pull of ref would do now.
func (s *Store) Explain(ctx context.Context, ref string) (Plan, error) {
	named, err := parseName(ref)
	if err != nil {
		return Plan{}, fmt.Errorf("cannot explain image: %w", err)
	}
	plan := Plan{Name: named.String()}
	domain := reference.Domain(named)
	if plan.Directory, err = s.hostDir(domain); err != nil && !errdefs.IsNotFound(err) {
		return Plan{}, err
	}
	hosts, err := config.ConfigureHosts(silent(ctx), config.HostOptions{HostDir: s.hostDir})(domain)
	if err != nil {
		return Plan{}, fmt.Errorf("cannot read %s: %w", filepath.Join(plan.Directory, "hosts.toml"), err)
	}
	for _, h := range hosts {
		plan.Hosts = append(plan.Hosts, explainHost(h))
		h.Client.CloseIdleConnections()
	}
	return plan, nil
}

func explainHost(h docker.RegistryHost) Host {
	out := Host{URL: h.Scheme + "://" + h.Host + h.Path, Resolve: h.Capabilities.Has(docker.HostCapabilityResolve), TLS: "none"}
	for name := range h.Header {
		out.Headers = append(out.Headers, name)
	}
	slices.Sort(out.Headers)
	t, ok := h.Client.Transport.(*http.Transport)
	if !ok {
		return out
	}
	if h.Scheme == "https" {
		out.TLS, out.ClientCertificate = trust(t.TLSClientConfig)
	}
	if t.Proxy == nil {
		return out
	}
	if req, err := http.NewRequest(http.MethodGet, out.URL, nil); err == nil {
		if proxy, err := t.Proxy(req); err == nil && proxy != nil {
			shown := *proxy // it is the process's own
			shown.User = nil
			out.Proxy = shown.String()
		}
	}
	return out
}

func trust(c *tls.Config) (how string, client bool) {
	if c == nil {
		return "system", false
	}
	how = "system"
	switch {
	case c.InsecureSkipVerify:
		how = "not checked"
	case c.RootCAs != nil:
		how = "own"
	}
	return how, len(c.Certificates) > 0 || c.GetClientCertificate != nil
}
