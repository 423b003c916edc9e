package oci

import "testing"

func TestMayRelabel(t *testing.T) {
	for p, want := range map[string]bool{"/": false, "/usr": false, "/usr/share/x": false, "/etc/ssl/": false, "/var": false, "/var/lib/../lib": false, "/home": false, "/proc/1": false,
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v": true, "/data": true, "/srv/data": true, "/home/me/data": true, "/usrlocal": true} {
		if got := mayRelabel(p); got != want {
			t.Errorf("%s may be relabelled: %v", p, got)
		}
	}
}

func TestTypeOf(t *testing.T) {
	const mounts = "21 1 0:19 / /proc rw shared:1 - proc proc rw\n22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:45 / /n rw shared:2 master:1 - nfs4 host:/x rw\n"
	for device, want := range map[string]string{"8:1": "ext4", "0:45": "nfs4", "0:4": "", "0:19": "proc"} {
		if got := typeOf(mounts, device); got != want {
			t.Errorf("%s is %q, want %q", device, got, want)
		}
	}
}
