package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// registry is where one pull gets its content: a repository with its mirrors and
// the pull's credentials. Nothing of it outlives the pull, so that no token or
// connection serves another one.
type registry struct {
	name       string
	pause      time.Duration
	resolver   remotes.Resolver
	fetcher    remotes.Fetcher
	transports []*http.Transport
}

// openRegistry reads hosts.toml for a name. The caller closes the registry.
func (s *Store) openRegistry(ctx context.Context, named reference.Named, auth *Auth) (*registry, error) {
	creds, err := newCredentials(auth)
	if err != nil {
		return nil, err
	}
	r := &registry{name: named.String(), pause: s.config.RetryPause}
	configured := config.ConfigureHosts(silent(ctx), config.HostOptions{
		HostDir: s.hostDir,
		UpdateClient: func(c *http.Client) error {
			if t, ok := c.Transport.(*http.Transport); ok && !slices.Contains(r.transports, t) {
				r.transports = append(r.transports, t)
			}
			return nil
		},
	})
	hosts := func(name string) ([]docker.RegistryHost, error) {
		list, err := configured(name)
		for i := range list {
			list[i] = s.guard(list[i], creds)
		}
		return list, err
	}
	r.resolver = docker.NewResolver(docker.ResolverOptions{
		Hosts:   hosts,
		Headers: http.Header{"User-Agent": {s.config.UserAgent}},
	})
	if r.fetcher, err = r.resolver.Fetcher(silent(ctx), r.name); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// guard puts our bounds and our credentials around a host of hosts.toml.
func (s *Store) guard(host docker.RegistryHost, creds credentials) docker.RegistryHost {
	client := *host.Client
	client.Transport = &transport{inner: client.Transport, stall: s.live.Load().StallTimeout}
	client.CheckRedirect = redirectPolicy(host.Header, fallsBack(&client))
	host.Client = &client
	host.Authorizer = creds.authorizer(host, &client, s.config.UserAgent)
	return host
}

func (r *registry) close() {
	for _, t := range r.transports {
		t.CloseIdleConnections()
	}
}

// resolve asks the registry what the name stands for now.
func (r *registry) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	_, desc, err := r.resolver.Resolve(silent(ctx), r.name)
	return desc, err
}

// fetch opens a blob or manifest from an offset on.
func (r *registry) fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	// Addresses inside a manifest are a stranger's: following them would make
	// the node a proxy into its own network.
	desc.URLs = nil
	rc, err := r.fetcher.Fetch(silent(ctx), desc)
	if err != nil || offset == 0 {
		return rc, err
	}
	seeker, ok := rc.(io.Seeker)
	if !ok {
		return nil, errors.Join(errors.New("registry client cannot resume"), rc.Close())
	}
	if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, rc.Close())
	}
	return rc, nil
}

func (r *registry) again() (time.Duration, bool) { return r.pause, true }

// hostDir finds a host's directory in the first of CertsDirs that has one. A
// hosts.toml that cannot be read is an error: the client would go past the
// mirror to the upstream registry without a word.
func (s *Store) hostDir(host string) (string, error) {
	for _, root := range s.live.Load().CertsDirs {
		dir, err := config.HostDirFromRoot(root)(host)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("cannot look for registry configuration: %w", err)
		}
		return dir, checkHostsFile(filepath.Join(dir, "hosts.toml"))
	}
	return "", errdefs.ErrNotFound
}

func isLoopback(u *url.URL) bool { return docker.IsLocalhost(u.Host) }

// silent keeps the registry client's own log lines away: they print addresses
// with their query strings.
func silent(ctx context.Context) context.Context {
	logger := &logrus.Logger{Out: io.Discard, Formatter: &logrus.TextFormatter{}, Hooks: logrus.LevelHooks{}, Level: logrus.PanicLevel}
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}
