package main

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"testing/fstest"
)

// The package's own files (deb-control(5)). The daemon may be restarted at any
// moment: an upgrade touches no pod.
const (
	postinst = `#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl enable cri-box.service
	systemctl restart cri-box.service
fi
`
	prerm = `#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl disable --now cri-box.service
	echo "Pods go on. To end them and remove all that cri-box made: cri-box reset, before the package is removed." >&2
fi
`
	postrm = `#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
`
	conffiles = "/etc/cri-box/config.toml\n/etc/crictl.yaml\n"
)

// control packs them.
func (r *release) control(tree, arch string) ([]byte, error) {
	size, err := kibibytes(tree)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(`Package: cri-box
Version: %s
Architecture: %s
Maintainer: The cri-box authors <noreply@cri-box.invalid>
Installed-Size: %d
Section: admin
Priority: optional
Homepage: https://github.com/cri-box/cri-box
Description: the container side of a Kubernetes node in one static binary
 The kubelet and crictl talk CRI v1 to it; it pulls images, wires pod networks
 and starts containers itself. Nothing else has to be installed.
`, debVersion(r.version), arch, size)
	script := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s), Mode: 0o755} }
	return r.tarGz(fstest.MapFS{
		"control": {Data: []byte(text), Mode: 0o644}, "conffiles": {Data: []byte(conffiles), Mode: 0o644},
		"postinst": script(postinst), "prerm": script(prerm), "postrm": script(postrm),
	})
}

// kibibytes is what the files below dir take, rounded up one by one.
func kibibytes(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += (info.Size() + 1023) / 1024
		}
		return err
	})
	return n, err
}
