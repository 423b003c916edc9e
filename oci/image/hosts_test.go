package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// These are the keys of hosts.toml one by one, as containerd's users know them.

// certsFile puts a file beside the hosts.toml of a registry.
func (l *lab) certsFile(t *testing.T, host, name string, content []byte) {
	t.Helper()
	dir := filepath.Join(l.config.CertsDirs[0], host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func authority(t *testing.T) *imagetest.Authority {
	t.Helper()
	a, err := imagetest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serveTLS starts a registry that speaks TLS only.
func serveTLS(t *testing.T, own, clients *imagetest.Authority) (*imagetest.Registry, string) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := own.Listen(inner, clients)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, listener), inner.Addr().String()
}

// TestTLS: who may be believed, and what we show of ourselves.
func TestTLS(t *testing.T) {
	own, clients := authority(t), authority(t)
	open, openHost := serveTLS(t, own, nil)
	closed, closedHost := serveTLS(t, own, clients)
	for _, reg := range []*imagetest.Registry{open, closed} {
		reg.Push("app", "1", simple("x"))
	}
	cert, key, err := clients.Sign("node")
	if err != nil {
		t.Fatal(err)
	}
	otherCert, otherKey, err := own.Sign("stranger")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ host, keys, want string }{
		"an authority nobody knows":        {openHost, ``, "certificate signed by unknown authority"},
		"ca":                               {openHost, `ca = "ca.pem"`, ""},
		"ca, several":                      {openHost, `ca = ["other.pem", "ca.pem"]`, ""},
		"ca, another one":                  {openHost, `ca = "other.pem"`, "certificate signed by unknown authority"},
		"ca that is not there":             {openHost, `ca = "missing.pem"`, "missing.pem"},
		"skip_verify":                      {openHost, `skip_verify = true`, ""},
		"skip_verify = false":              {openHost, `skip_verify = false`, "certificate signed by unknown authority"},
		"no client certificate":            {closedHost, `ca = "ca.pem"`, "certificate required"},
		"client, one file":                 {closedHost, "ca = \"ca.pem\"\nclient = \"both.pem\"", ""},
		"client, a list of files":          {closedHost, "ca = \"ca.pem\"\nclient = [\"both.pem\"]", ""},
		"client, pairs":                    {closedHost, "ca = \"ca.pem\"\nclient = [[\"node.cert\", \"node.key\"]]", ""},
		"client, pairs, the second one":    {closedHost, "ca = \"ca.pem\"\nclient = [[\"stranger.cert\", \"stranger.key\"], [\"node.cert\", \"node.key\"]]", ""},
		"client, of another authority":     {closedHost, "ca = \"ca.pem\"\nclient = [[\"stranger.cert\", \"stranger.key\"]]", "certificate"},
		"client, a key of another program": {closedHost, "ca = \"ca.pem\"\nclient = [[\"node.cert\", \"stranger.key\"]]", "private key does not match"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			for file, content := range map[string][]byte{"ca.pem": own.PEM, "other.pem": clients.PEM, "node.cert": cert, "node.key": key,
				"both.pem": slices.Concat(cert, key), "stranger.cert": otherCert, "stranger.key": otherKey} {
				l.certsFile(t, "registry.test", file, content)
			}
			l.hostsFile(t, "registry.test", fmt.Sprintf("server = %q\n[host.%q]\n%s\n", "http://127.0.0.1:1", "https://"+c.host, c.keys))
			_, err := l.Pull(t.Context(), "registry.test/app:1", nil, nil)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, wanted %q", err, c.want)
			}
		})
	}
}

// TestCertificateFiles: a directory of certificates without hosts.toml, as Docker
// has it.
func TestCertificateFiles(t *testing.T) {
	own, clients := authority(t), authority(t)
	reg, host := serveTLS(t, own, clients)
	reg.Push("app", "1", simple("x"))
	cert, key, err := clients.Sign("node")
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t)
	if _, err := l.Pull(t.Context(), host+"/app:1", nil, nil); err == nil {
		t.Error("it worked without a certificate")
	}
	dir := strings.Replace(host, ":", "_", 1) + "_"
	l.certsFile(t, dir, "node.cert", cert)
	l.certsFile(t, dir, "node.key", key)
	if _, err := l.Pull(t.Context(), host+"/app:1", nil, nil); err != nil {
		t.Error(err)
	}
	// A registry on loopback may have any certificate; of another one the plan tells.
	l.certsFile(t, "registry.test", "authority.crt", own.PEM)
	plan, err := l.Explain(t.Context(), "registry.test/app:1")
	if err != nil || plan.Hosts[0].TLS != "own" {
		t.Errorf("plan %+v, %v", plan, err)
	}
}

// TestOrder: mirrors are asked in the order of the file, for what they can do, and
// the registry itself comes last.
func TestOrder(t *testing.T) {
	l := newLab(t)
	var mu sync.Mutex
	var asked []string
	hosts := map[string]string{}
	for _, name := range []string{"zulu", "alpha", "mike", "server"} {
		reg, host := serve(t)
		hosts[name] = "http://" + host
		reg.Break(imagetest.Fault{Do: func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked = append(asked, name+" "+r.Method)
			mu.Unlock()
			w.WriteHeader(http.StatusNotFound)
		}})
	}
	l.hostsFile(t, "registry.test", fmt.Sprintf("server = %q\n[host.%q]\n[host.%q]\ncapabilities = [\"pull\"]\n[host.%q]\ncapabilities = [\"resolve\", \"pull\"]\n",
		hosts["server"], hosts["zulu"], hosts["alpha"], hosts["mike"]))
	if _, err := l.Pull(t.Context(), "registry.test/app:1", nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if want := []string{"zulu HEAD", "mike HEAD", "server HEAD"}; !slices.Equal(slices.Compact(asked), want) {
		t.Errorf("asked for a tag: %v, wanted %v", asked, want)
	}
	asked = nil
	if _, err := l.Pull(t.Context(), "registry.test/app@"+simple("x").Top.Digest.String(), nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	first := func(name string) int { return slices.Index(asked, name+" HEAD") }
	if first("zulu") != 0 || first("server") < first("zulu") || len(asked) == 0 {
		t.Errorf("asked for a digest: %v", asked)
	}
}

// TestHeader: what hosts.toml adds goes to that host, and to no other.
func TestHeader(t *testing.T) {
	l := newLab(t)
	second, secondHost := serve(t)
	second.Push("app", "1", simple("x"))
	second.AnonymousTokens()
	l.hostsFile(t, "registry.test", fmt.Sprintf("server = %q\n[host.%q.header]\nX-Team = \"blue\"\nX-Many = [\"a\", \"b\"]\n", "http://"+secondHost, "http://"+l.host))
	if _, err := l.Pull(t.Context(), "registry.test/app:1", nil, nil); err != nil {
		t.Fatal(err)
	}
	mirror := l.reg.Requests("")
	if len(mirror) == 0 || mirror[0].Header.Get("X-Team") != "blue" || !slices.Equal(mirror[0].Header.Values("X-Many"), []string{"a", "b"}) {
		t.Errorf("the mirror got %+v", mirror)
	}
	for _, r := range second.Requests("") {
		if r.Header.Get("X-Team") != "" {
			t.Errorf("another host got the header: %+v", r)
		}
	}
}

// TestUserAgent: registries, their token servers and blob stores see who asks.
func TestUserAgent(t *testing.T) {
	l := newLab(t, func(c *Config) { c.UserAgent = "cri-box/1.2.3" })
	l.reg.AnonymousTokens()
	l.reg.Push("app", "1", simple("x"))
	l.pull(t, "app:1")
	kinds := map[string]bool{}
	for _, r := range l.reg.Requests("") {
		if got := r.Header.Get("User-Agent"); got != "cri-box/1.2.3" {
			t.Errorf("%s %s came from %q", r.Method, r.Path, got)
		}
		for _, kind := range []string{"/token", "/manifests/", "/blobs/"} {
			kinds[kind] = kinds[kind] || strings.Contains(r.Path, kind)
		}
	}
	if len(kinds) != 3 || !kinds["/token"] || !kinds["/manifests/"] || !kinds["/blobs/"] {
		t.Errorf("requests of these kinds only: %v", kinds)
	}
}

// TestAnonymous: a public registry that wants a token gives one to everybody.
func TestAnonymous(t *testing.T) {
	l := newLab(t)
	l.reg.AnonymousTokens()
	l.reg.Push("app", "1", simple("x"))
	l.pull(t, "app:1")
	for _, r := range l.reg.Requests("/token") {
		if r.Authorization != "" || r.Method != http.MethodGet {
			t.Errorf("the token server got %+v", r)
		}
	}
}

// deafListener is an address where connections are never made: the kernel drops
// what comes once the queue of a socket that nobody accepts from is full.
func deafListener(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for { // until one is not answered
		conn, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
}

// TestDialTimeout: a mirror that does not answer is given up when its time is over.
func TestDialTimeout(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "1", simple("x"))
	l.hostsFile(t, "registry.test", fmt.Sprintf("server = %q\n[host.%q]\ndial_timeout = \"100ms\"\n", "http://"+l.host, "http://"+deafListener(t)))
	within(t, 15*time.Second, "giving up a mirror", func(ctx context.Context) {
		if _, err := l.Pull(ctx, "registry.test/app:1", nil, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestHostsFileTypes: what containerd would pass over with a line in its log, and
// ask the registry itself instead of the mirror, is an error.
func TestHostsFileTypes(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "1", simple("x"))
	for content, want := range map[string]string{
		"ca = 5":                            "ca is neither a file nor a list of files",
		"ca = [5]":                          "ca is neither",
		"client = true":                     "client is neither a file nor a list",
		"client = [[\"a\"]]":                "client has a pair of 1",
		"[header]\nX = 5":                   "header \"X\" is neither a text nor a list",
		"server = \"http://a b\"":           "is no address",
		"[host.\"http://x y\"]":             `host "http://x y": "http://x y" is no address`,
		"[host.\"http://x\".header]\nY=[1]": "header \"Y\"",
	} {
		l.hostsFile(t, l.host, content)
		wantError(t, l.pullError(t, "app:1", nil), want, "hosts.toml")
	}
	if n := len(l.reg.Requests("")); n > 0 {
		t.Errorf("%d requests went past the mirror", n)
	}
}

// TestVerifier: an image that a verifier rejects is not pulled, under no name and
// not even when its layers are here; the text is what the kubelet looks for.
func TestVerifier(t *testing.T) {
	dir := t.TempDir()
	l := newLab(t, func(c *Config) { c.VerifierDir = dir })
	good, bad := simple("good"), simple("bad")
	l.reg.Push("app", "good", good)
	l.reg.Push("app", "bad", bad)
	l.pull(t, "app:bad") // there is no verifier yet
	script := fmt.Sprintf("#!/bin/sh\necho not ours\n[ \"$2\" = %s ] && [ \"$4\" = %s ]\n", l.ref("app:good"), good.Top.Digest)
	if err := os.WriteFile(filepath.Join(dir, "only-good"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	l.pull(t, "app:good")
	for _, name := range []string{"app:bad", "app@" + bad.Top.Digest.String()} {
		err := l.pullError(t, name, nil)
		if !strings.HasPrefix(err.Error(), "SignatureValidationFailed: cannot pull "+l.ref(name)+": image verifier only-good: ") || !errors.Is(err, ErrSignatureValidationFailed) {
			t.Errorf("%s: %v", name, err)
		}
		wantError(t, err, "not ours")
	}
}

const proxyRoot, proxyCerts = "CRI_BOX_TEST_PROXY_ROOT", "CRI_BOX_TEST_PROXY_CERTS"

// proxied pulls in a process of its own, since Go reads the proxy environment once.
func proxied(t *testing.T, l *lab, env ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = slices.Concat(os.Environ(), []string{proxyRoot + "=" + filepath.Join(t.TempDir(), "images"), proxyCerts + "=" + l.config.CertsDirs[0]}, env)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pullProxied is that process.
func pullProxied(root, certs string) int {
	s, err := Open(Config{Root: root, CertsDirs: []string{certs}, RetryPause: time.Millisecond})
	if err == nil { // an answer that hides the proxy's password leaves it to the pulls
		_, err = s.Explain(rootContext(), "registry.test/app:1")
	}
	if err == nil {
		_, err = s.Pull(rootContext(), "registry.test/app:1", nil, nil)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestProxy: the proxy of the environment is used, and who it is not for is asked
// directly. The lab's registry plays the proxy: it is asked for whole addresses.
func TestProxy(t *testing.T) {
	l := newLab(t)
	l.reg.Push("app", "1", simple("x"))
	l.hostsFile(t, "registry.test", "server = \"http://registry.test\"\n")
	if out, err := proxied(t, l, "HTTP_PROXY=http://user:canary@"+l.host); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	requests := l.reg.Requests("")
	if len(requests) == 0 || !strings.HasPrefix(requests[0].Path, "http://registry.test/v2/app/") || requests[0].Header.Get("Proxy-Authorization") == "" {
		t.Errorf("the proxy was asked %+v", requests)
	}
	out, err := proxied(t, l, "HTTP_PROXY=http://user:canary@"+l.host, "NO_PROXY=registry.test")
	if err == nil || !strings.HasPrefix(out, "RegistryUnavailable: cannot pull registry.test/app:1: ") || strings.Contains(out, "canary") {
		t.Errorf("%v: %s", err, out)
	}
	if n := len(l.reg.Requests("")); n != len(requests) {
		t.Errorf("the proxy was asked %d times for who it is not for", n-len(requests))
	}
}
