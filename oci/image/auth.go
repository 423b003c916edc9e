package image

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// Auth is how a pull says who it is: CRI's AuthConfig. Of the forms that are
// filled the first of registry token, identity token, user name and password,
// and auth is used. It prints as nothing.
type Auth struct {
	Username, Password string
	// Auth is the base64 of "user:password".
	Auth string
	// ServerAddress, if given, is the only registry that the credentials are for.
	ServerAddress string
	// IdentityToken is a refresh token of the token server.
	IdentityToken string
	// RegistryToken is a bearer token of the registry itself.
	RegistryToken string
}

// String hides everything.
func (a Auth) String() string { return "[secret]" }

// GoString hides everything.
func (a Auth) GoString() string { return "[secret]" }

// LogValue hides everything.
func (a Auth) LogValue() slog.Value { return slog.StringValue("[secret]") }

// credentials are an Auth made ready for use.
type credentials struct {
	auth           Auth
	user, password string // with an identity token user is empty
}

func newCredentials(auth *Auth) (credentials, error) {
	if auth == nil {
		return credentials{}, nil
	}
	c := credentials{auth: *auth}
	switch {
	case auth.IdentityToken != "":
		c.password = auth.IdentityToken
	case auth.Username != "" || auth.Password != "":
		c.user, c.password = auth.Username, auth.Password
	case auth.Auth != "":
		user, password, err := decodeAuth(auth.Auth)
		if err != nil {
			return credentials{}, err
		}
		c.user, c.password = user, password
	}
	return c, nil
}

func decodeAuth(text string) (user, password string, err error) {
	data, err := base64.StdEncoding.DecodeString(strings.TrimRight(text, "\n"))
	if err != nil {
		return "", "", ErrInvalidAuth
	}
	user, password, ok := strings.Cut(string(data), ":")
	if !ok {
		return "", "", ErrInvalidAuth
	}
	return user, strings.TrimRight(password, "\x00"), nil
}

// secrets returns every text that must not be shown. Very short ones would
// garble an error more than they would tell.
func (a *Auth) secrets() []string {
	if a == nil {
		return nil
	}
	all := []string{a.Password, a.Auth, a.IdentityToken, a.RegistryToken}
	pairs := [][2]string{{a.Username, a.Password}, {"", a.IdentityToken}}
	if user, password, err := decodeAuth(a.Auth); err == nil {
		all, pairs = append(all, password), append(pairs, [2]string{user, password})
	}
	for _, p := range pairs {
		if p[1] != "" { // as a request has it
			all = append(all, base64.StdEncoding.EncodeToString([]byte(p[0]+":"+p[1])))
		}
	}
	var out []string
	for _, s := range all {
		if len(s) >= 3 {
			out = append(out, s, url.QueryEscape(s))
		}
	}
	return out
}

// isFor says whether the credentials may be sent to a host.
func (c credentials) isFor(host string) bool {
	if c.auth.ServerAddress == "" {
		return true
	}
	server := c.auth.ServerAddress
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		server = u.Host
	}
	server, _, _ = strings.Cut(server, "/")
	return canonicalHost(server) == canonicalHost(host)
}

// canonicalHost gives Docker Hub, which has several names, one.
func canonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

// authorizer returns what authorizes requests to one host of hosts.toml. The
// credentials leave for no other host: not for where a redirect points to.
func (c credentials) authorizer(host docker.RegistryHost, client *http.Client, userAgent string) docker.Authorizer {
	if c.auth.RegistryToken != "" && c.isFor(host.Host) {
		return fixedToken{host.Host, c.auth.RegistryToken}
	}
	creds := func(asked string) (string, string, error) {
		if asked != host.Host || !c.isFor(asked) {
			return "", "", nil
		}
		return c.user, c.password, nil
	}
	header := http.Header{"User-Agent": {userAgent}}
	maps.Copy(header, host.Header)
	return docker.NewDockerAuthorizer(
		docker.WithAuthClient(tokenClient(host, client)),
		docker.WithAuthCreds(creds),
		docker.WithAuthHeader(header))
}

// fixedToken sends a bearer token that the caller had already.
type fixedToken struct{ host, token string }

func (t fixedToken) Authorize(_ context.Context, req *http.Request) error {
	if req.URL.Host == t.host {
		req.Header.Set("Authorization", "Bearer "+t.token)
	}
	return nil
}

func (t fixedToken) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("registry refused the registry token: %w", docker.ErrInvalidAuthorization)
}

// tokenClient is the client for a registry's token server. The registry names
// that server: it must not move credentials from TLS to plain HTTP, nor have an answer
// taken for a blob, which may be long, because of its address.
func tokenClient(host docker.RegistryHost, client *http.Client) *http.Client {
	keepTLS := host.Scheme == "https" && !docker.IsLocalhost(host.Host) && !fallsBack(client)
	c := *client
	inner := c.Transport
	c.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		if keepTLS && req.URL.Scheme != "https" {
			return nil, fmt.Errorf("cannot ask token server %s: registry %s uses https, its token server must too", req.URL.Host, host.Host)
		}
		resp, err := inner.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		if body, ok := resp.Body.(*watchedBody); ok {
			body.left = maxSmallBody
		}
		return resp, nil
	})
	return &c
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
