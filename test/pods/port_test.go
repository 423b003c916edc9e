package pods_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cri-box/cri-box/oci/image/imagetest"
	"github.com/cri-box/cri-box/test/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPortProtocols: TCP on one address of the node, UDP on all, the same number.
func TestPortProtocols(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{
			{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8080, HostPort: 30080, HostIp: "127.0.0.1"},
			{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 5353, HostPort: 30080},
			{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8081},
		}
	})
	pod.Run("tcp", i.Image(probe), run("serve-http", "8080", "hello")).WaitOutput("ready")
	pod.Run("udp", i.Image(probe), run("echo-udp", "5353")).WaitOutput("ready")
	equal(t, "page", fetch(t, i.Node, "127.0.0.1", 30080, "/"), "hello")
	node := nodeAddress(t, i)
	err := i.Node.Do(func() error {
		if conn, err := net.DialTimeout("tcp", join(node, 30080), 5*time.Second); err == nil {
			conn.Close()
			t.Errorf("%s answers as well, where host_ip is 127.0.0.1", node)
		}
		conn, err := net.Dial("udp", join(node, 30080))
		if err != nil {
			return err
		}
		defer conn.Close()
		return echo(conn)
	})
	if err != nil {
		t.Error(err)
	}
}

// echo sends a datagram and wants it back.
func echo(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(harness.Long(10 * time.Second)))
	if _, err := conn.Write([]byte("ask")); err != nil {
		return err
	}
	buf := make([]byte, 16)
	n, err := conn.Read(buf)
	if err == nil && string(buf[:n]) != "ask" {
		err = fmt.Errorf("the echo is %q", buf[:n])
	}
	return err
}

// nodeAddress is one that is not loopback.
func nodeAddress(t *testing.T, i *harness.Instance) (found string) {
	t.Helper()
	err := i.Node.Do(func() error {
		addresses, err := net.InterfaceAddrs()
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
				found = ip.IP.String()
			}
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("the node has no address: %v", err)
	}
	return found
}

// TestAuthConfig: each form of credentials, over CRI.
func TestAuthConfig(t *testing.T) {
	i := harness.New(t)
	ref := i.Push("private", imagetest.New().File("/secret", 0o600, []byte("x")).Build())
	registry := i.Registry()
	pull := func(a *runtimeapi.AuthConfig) error {
		_, err := i.Images.PullImage(i.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: a, SandboxConfig: i.PodConfig()})
		return err
	}
	registry.BasicAuth("user", "password")
	for form, a := range map[string]*runtimeapi.AuthConfig{
		"username and password": {Username: "user", Password: "password", ServerAddress: "127.0.0.1:5000"},
		"auth":                  {Auth: "dXNlcjpwYXNzd29yZA=="},
	} {
		if err := pull(a); err != nil {
			t.Errorf("%s: %v", form, err)
		}
	}
	for form, a := range map[string]*runtimeapi.AuthConfig{
		"none": nil, "a wrong password": {Username: "user", Password: "no"},
		"for another registry": {Username: "user", Password: "password", ServerAddress: "example.org"},
	} {
		if err := pull(a); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", form, err)
		}
	}
	registry.TokenAuth("user", "password", "identity")
	registry.AcceptToken("bearer")
	for form, a := range map[string]*runtimeapi.AuthConfig{
		"identity_token": {IdentityToken: "identity"}, "registry_token": {RegistryToken: "bearer"},
	} {
		if err := pull(a); err != nil {
			t.Errorf("%s: %v", form, err)
		}
	}
}
