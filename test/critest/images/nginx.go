package images

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/oci/image/imagetest"
)

// nginxPath is where Debian's package nginx-light puts the program.
const nginxPath = "/usr/sbin/nginx"

const nginxConfig = `user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 64; }
http {
	access_log /dev/stdout;
	server {
		listen %d;
		location / { root /usr/share/nginx/html; index index.html; }
	}
}
`

// nginx is Debian's, with the libraries it needs, on a port of all addresses. It
// runs in the foreground and writes /var/run/nginx.pid, which upstream reads.
func nginx(t testing.TB, port int) *imagetest.Image {
	t.Helper()
	b := userland(t).Layer()
	for _, file := range append(libraries(t, nginxPath), nginxPath) {
		b.File(file, 0o755, read(t, file))
	}
	return b.
		File("/etc/nginx/nginx.conf", 0o644, fmt.Appendf(nil, nginxConfig, port)).
		File("/usr/share/nginx/html/index.html", 0o644, page("nginx")).
		Dir("/var/lib/nginx", 0o755).
		Dir("/var/lock", 0o755).
		Config(command("nginx", "-g", "daemon off;")).
		Build()
}

// libraries are the files that the dynamic loader maps for a program, the loader
// among them.
func libraries(t testing.TB, program string) []string {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%s is missing; hack/setup.sh critest gets it: %v", program, err)
	}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatalf("cannot list the libraries of %s: %v", program, err)
	}
	return loaded(out)
}

// loaded reads ldd's lines: "libz.so.1 => /lib/libz.so.1 (0x…)" and, for the
// loader, "/lib64/ld-linux-x86-64.so.2 (0x…)".
func loaded(ldd []byte) []string {
	var files []string
	for line := range bytes.Lines(ldd) {
		for _, word := range strings.Fields(string(line)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
				break
			}
		}
	}
	return files
}
