package image

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// canaries are the secrets of the tests; none may appear anywhere.
const (
	canaryPassword = "canary-password/+="
	canaryIdentity = "canary-identity"
	canaryToken    = "canary-token"
)

// forms are the five forms of credentials.
func forms(password string) map[string]*Auth {
	return map[string]*Auth{
		"password": {Username: "user", Password: password},
		"auth":     {Auth: base64.StdEncoding.EncodeToString([]byte("user:" + password))},
		"identity": {Username: "user", IdentityToken: canaryIdentity},
		"token":    {RegistryToken: canaryToken},
	}
}

func TestAuthForms(t *testing.T) {
	for name, auth := range forms(canaryPassword) {
		for _, tokens := range []bool{false, true} {
			if !tokens && (name == "identity" || name == "token") {
				continue // bearer only
			}
			t.Run(fmt.Sprintf("%s tokens=%v", name, tokens), func(t *testing.T) {
				l := newLab(t)
				l.reg.BasicAuth("user", canaryPassword)
				if tokens {
					l.reg.TokenAuth("user", canaryPassword, canaryIdentity)
					l.reg.AcceptToken(canaryToken)
				}
				l.reg.Push("app", "1", simple("x"))
				if _, err := l.Pull(t.Context(), l.ref("app:1"), auth, nil); err != nil {
					t.Fatal(err)
				}
				for _, server := range []string{l.host, "http://" + l.host, "https://" + l.host + "/v1/"} {
					with := *auth
					with.ServerAddress = server
					if _, err := l.Pull(t.Context(), l.ref("app:1"), &with, nil); err != nil {
						t.Errorf("server address %s: %v", server, err)
					}
				}
				elsewhere := *auth
				elsewhere.ServerAddress = "example.org"
				l.reg.Mend()
				before := len(l.reg.Requests(""))
				if _, err := l.Pull(t.Context(), l.ref("app:1"), &elsewhere, nil); !errors.Is(err, ErrAccessDenied) {
					t.Errorf("credentials for another registry: %v", err)
				}
				for _, r := range l.reg.Requests("")[before:] {
					if r.Authorization != "" {
						t.Errorf("credentials for another registry were sent: %+v", r)
					}
				}
				if _, err := l.Pull(t.Context(), l.ref("app:1"), nil, nil); !errors.Is(err, ErrAccessDenied) {
					t.Errorf("without credentials: %v", err)
				}
			})
		}
	}
}

// TestNoSecretInErrors looks for each secret in errors, in the log and in how
// credentials print.
func TestNoSecretInErrors(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		// A registry that says everything that it was told.
		w.Header().Set("Content-Type", "application/json")
		user, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"%s %s %s %s"}]}`, user, password, r.Header.Get("Authorization"), r.URL)
	}
	signed := "/signed?X-Amz-Signature=canary-signature&token=canary-query"
	redirect := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/signed" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		http.Redirect(w, r, signed, http.StatusTemporaryRedirect)
	}
	nowhere := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1"+signed, http.StatusTemporaryRedirect)
	}
	for _, tokens := range []bool{false, true} {
		for form, auth := range forms(canaryPassword) {
			for fault, do := range map[string]http.HandlerFunc{"echo": echo, "redirect": redirect, "nowhere": nowhere, "none": nil} {
				t.Run(fmt.Sprintf("%s %s tokens=%v", form, fault, tokens), func(t *testing.T) {
					l := newLab(t)
					l.reg.BasicAuth("user", canaryPassword)
					if tokens {
						l.reg.TokenAuth("user", "other", "other")
					}
					l.reg.Push("app", "1", simple("x"))
					for _, path := range []string{"/manifests/", "/blobs/", "/signed"} {
						if do != nil {
							l.reg.Break(imagetest.Fault{Path: path, Do: do})
						}
					}
					_, err := l.Pull(t.Context(), l.ref("app:1"), auth, nil)
					if err == nil && (do != nil || tokens) {
						t.Error("it worked")
					}
					text := fmt.Sprintf("%v %+v %#v %s %v %+v %#v %s", err, err, err, l.log, auth, *auth, *auth, auth)
					coded := base64.StdEncoding.EncodeToString([]byte("user:" + canaryPassword)) // as a registry gets it
					for _, secret := range append(auth.secrets(), "canary", coded) {
						if strings.Contains(text, secret) {
							t.Errorf("%q is in %s", secret, text)
						}
					}
				})
			}
		}
	}
}

func TestBadAuth(t *testing.T) {
	l := newLab(t)
	for _, text := range []string{"%%%canary", base64.StdEncoding.EncodeToString([]byte("canary-without-colon"))} {
		_, err := l.Pull(t.Context(), l.ref("app:1"), &Auth{Auth: text}, nil)
		wantError(t, err, "auth is not the base64 of user:password")
		if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), text) {
			t.Errorf("secret in %v", err)
		}
	}
}

// TestTokenServerKeepsTLS: credentials do not go from https to http because a
// registry says so. The registry's scheme decides, so the client is asked here.
func TestTokenServerKeepsTLS(t *testing.T) {
	sent := false
	client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		sent = true
		return nil, errors.New("sent")
	})}
	host := registryHost("https", "registry.example")
	if _, err := tokenClient(host, client).Get("http://token.example/"); err == nil || sent {
		t.Errorf("sent: %v, %v", sent, err)
	}
	if _, err := tokenClient(host, client).Get("https://token.example/"); err == nil || !sent {
		t.Errorf("https was not sent: %v", err)
	}
}

// TestOneHostOnly: the authorizer of a host has nothing for another one.
func TestOneHostOnly(t *testing.T) {
	host := registryHost("http", "registry.example")
	creds := credentials{user: "user", password: canaryPassword}
	for asked, want := range map[string]bool{"registry.example": true, "thief.example": false, "registry.example:81": false} {
		a := creds.authorizer(host, http.DefaultClient, "test")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+asked+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		challenge := &http.Response{Request: req, StatusCode: 401, Header: http.Header{"Www-Authenticate": {`Basic realm="x"`}}}
		err = a.AddResponses(t.Context(), []*http.Response{challenge})
		if err == nil {
			err = a.Authorize(t.Context(), req)
		}
		if got := err == nil && req.Header.Get("Authorization") != ""; got != want {
			t.Errorf("%s: %v, %v", asked, got, err)
		}
		token := credentials{auth: Auth{RegistryToken: canaryToken}}.authorizer(host, http.DefaultClient, "test")
		req.Header.Del("Authorization")
		if err := token.Authorize(t.Context(), req); err != nil || (req.Header.Get("Authorization") != "") != want {
			t.Errorf("token to %s: %v, %v", asked, req.Header, err)
		}
	}
}

// TestTokenServerRedirects: a token server gets the password in a request's body, which
// a redirect does not take elsewhere.
func TestTokenServerRedirects(t *testing.T) {
	l := newLab(t)
	asked, thief := "", httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s with %q", r.Method, r.FormValue("password"))
	}))
	defer thief.Close()
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.FormValue("password")
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	}))
	defer tokens.Close()
	l.reg.Break(imagetest.Fault{BeforeAuth: true, Status: http.StatusUnauthorized,
		Header: http.Header{"Www-Authenticate": {fmt.Sprintf("Bearer realm=%q,service=x", tokens.URL)}}})
	err := l.pullError(t, "app:1", &Auth{Username: "user", Password: canaryPassword})
	wantError(t, err, "redirects a request that holds credentials")
	if asked != canaryPassword {
		t.Errorf("the token server was told %q", asked)
	}
}

// TestEndlessToken: a token is no blob, wherever a registry says that its token server
// is, and whatever that answers with.
func TestEndlessToken(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusMultipleChoices} {
		l := newLab(t)
		l.reg.Break(imagetest.Fault{BeforeAuth: true, Path: "/v2/", Status: http.StatusUnauthorized,
			Header: http.Header{"Www-Authenticate": {fmt.Sprintf("Bearer realm=%q,service=x", "http://"+l.host+"/blobs/token")}}})
		l.reg.Break(imagetest.Fault{BeforeAuth: true, Path: "/blobs/token", Do: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, err := fmt.Fprint(w, `{"token":"`)
			for range 64 {
				if err == nil {
					_, err = w.Write(bytes.Repeat([]byte("x"), 1<<20))
				}
			}
			if err == nil {
				t.Errorf("status %d: 64 MiB were taken for a token", status)
			}
		}})
		wantError(t, l.pullError(t, "app:1", nil), "registry sends more than")
	}
}

// TestPlainRegistryWithTLSSettings: an address of http with skip_verify is asked by TLS
// first, and where it has none, its token server and blob store need none either.
func TestPlainRegistryWithTLSSettings(t *testing.T) {
	l := newLab(t)
	_, port, _ := strings.Cut(l.host, ":")
	address := "http://0.0.0.0:" + port // as good as loopback, but nobody takes it for that
	l.hostsFile(t, "example.org", fmt.Sprintf("server = %q\n[host.%q]\n  skip_verify = true\n", "http://127.0.0.1:1", address))
	built := simple("x")
	store, storeHost := serve(t)
	store.Push("app", "1", built)
	l.reg.Push("app", "1", built)
	l.reg.TokenAuth("user", canaryPassword, "")
	l.reg.Break(imagetest.Fault{Path: built.Manifest.Layers[0].Digest.String(), Redirect: "http://" + storeHost})
	if _, err := l.Pull(t.Context(), "example.org/app:1", &Auth{Username: "user", Password: canaryPassword}, nil); err != nil {
		t.Error(err)
	}
}

// TestMirrorsCredentials: credentials that do not say whom they are for go to each host
// of hosts.toml that asks, and to nobody else, wherever those send us.
func TestMirrorsCredentials(t *testing.T) {
	l := newLab(t)
	server, serverHost := serve(t)
	stranger, strangerHost := serve(t)
	built := simple("x")
	server.Push("app", "1", built)
	stranger.Push("app", "1", built)
	for _, reg := range []*imagetest.Registry{l.reg, server, stranger} {
		reg.BasicAuth("user", canaryPassword)
	}
	server.Break(imagetest.Fault{Path: "/blobs/", Redirect: "http://" + strangerHost})
	l.hostsFile(t, "registry.test", fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+serverHost, "http://"+l.host))
	if _, err := l.Pull(t.Context(), "registry.test/app:1", &Auth{Username: "user", Password: canaryPassword}, nil); err == nil {
		t.Error("the stranger has given the blobs")
	}
	for name, reg := range map[string]*imagetest.Registry{"mirror": l.reg, "server": server, "stranger": stranger} {
		sent, asked := false, reg.Requests("")
		for _, r := range asked {
			sent = sent || r.Authorization != ""
		}
		if len(asked) == 0 || sent != (name != "stranger") {
			t.Errorf("the %s was asked %d times, with credentials: %v", name, len(asked), sent)
		}
	}
}

func TestServerAddress(t *testing.T) {
	for _, c := range []struct {
		server, host string
		want         bool
	}{
		{"", "any.example", true},
		{"quay.io", "quay.io", true},
		{"QUAY.io", "quay.io", true},
		{"https://quay.io/v1/", "quay.io", true},
		{"quay.io/team", "quay.io", true},
		{"https://index.docker.io/v1/", "registry-1.docker.io", true},
		{"docker.io", "registry-1.docker.io", true},
		{"quay.io", "quay.io.evil.example", false},
		{"quay.io", "quay.io:5000", false},
		{"quay.io:5000", "quay.io:5000", true},
	} {
		if got := (credentials{auth: Auth{ServerAddress: c.server}}).isFor(c.host); got != c.want {
			t.Errorf("%s for %s: %v", c.server, c.host, got)
		}
	}
}

// hostsFile writes a hosts.toml for the lab's registry or another name.
func (l *lab) hostsFile(t *testing.T, host, content string) {
	t.Helper()
	dir := filepath.Join(l.config.CertsDirs[0], strings.Replace(host, ":", "_", 1)+"_")
	if !strings.Contains(host, ":") {
		dir = filepath.Join(l.config.CertsDirs[0], host)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestHostsFile: an upstream name is served by mirrors, in their order.
func TestHostsFile(t *testing.T) {
	l := newLab(t)
	second, secondHost := serve(t)
	built := simple("x")
	second.Push("library/busybox", "latest", built)
	l.hostsFile(t, "docker.io", fmt.Sprintf(`server = "http://127.0.0.1:1"
[host."http://%s"]
  capabilities = ["pull", "resolve"]
[host."http://%s"]
  capabilities = ["pull", "resolve"]
  [host."http://%s".header]
    X-Team = "canary"
`, l.host, secondHost, secondHost))
	img, err := l.Pull(t.Context(), "busybox", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if img.RepoTags[0] != "docker.io/library/busybox:latest" {
		t.Errorf("tags %v", img.RepoTags)
	}
	first := l.reg.Requests("/v2/library/busybox/manifests/latest")
	if len(first) == 0 || !strings.Contains(first[0].Path, "ns=docker.io") {
		t.Errorf("the first mirror was asked so: %+v", first)
	}
	// It is read at every pull.
	l.hostsFile(t, "docker.io", fmt.Sprintf("[host.%q]\n  override_path = true\n", "http://"+l.host+"/prefix/v2"))
	l.reg.Break(imagetest.Fault{Path: "/prefix/", Status: http.StatusForbidden})
	if _, err := l.Pull(t.Context(), "busybox:other", nil, nil); err == nil {
		t.Error("it worked")
	}
	if len(l.reg.Requests("/prefix/v2/library/busybox/")) == 0 {
		t.Error("override_path was not used")
	}
}

// TestBrokenHostsFile: a mirror configuration that cannot be read is not passed
// over.
func TestBrokenHostsFile(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "1", simple("x"))
	for content, want := range map[string]string{
		"[host.\n":   "hosts.toml",
		"server = 7": "hosts.toml",
		"[host.\"http://x\"]\ncapabilities = [\"fetch\"]": `host "http://x": capability "fetch" is not known`,
		"dial_timeout = \"soon\"":                         "invalid duration",
	} {
		l.hostsFile(t, l.host, content)
		wantError(t, l.pullError(t, "app:1", nil), want)
	}
	if n := len(l.reg.Requests("")); n > 0 {
		t.Errorf("%d requests went past the mirror", n)
	}
}

// TestMirrorHeadersStay: headers of hosts.toml are for the mirror, not for where
// it redirects to.
func TestMirrorHeadersStay(t *testing.T) {
	l := newLab(t)
	store, storeHost := serve(t)
	built := simple("x")
	l.reg.Push("app", "1", built)
	store.Push("app", "1", built)
	got := make(chan http.Header, 10)
	blob := built.Blob(built.Manifest.Layers[0].Digest)
	store.Break(imagetest.Fault{Path: built.Manifest.Layers[0].Digest.String(), Do: func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		_, _ = w.Write(blob)
	}})
	l.hostsFile(t, "example.org", fmt.Sprintf("[host.%q]\n  [host.%q.header]\n    X-Secret = \"canary\"\n", "http://"+l.host, "http://"+l.host))
	l.reg.Break(imagetest.Fault{Path: "/blobs/", Redirect: "http://" + storeHost})
	if _, err := l.Pull(t.Context(), "example.org/app:1", nil, nil); err != nil {
		t.Fatal(err)
	}
	if h := <-got; h.Get("X-Secret") != "" {
		t.Error("the header went to the blob store")
	}
}
