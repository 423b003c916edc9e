package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/spec"
	"golang.org/x/sys/unix"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// An ImageVolume is an image that is mounted into a container, for reading.
type ImageVolume struct {
	// ID is the image's.
	ID string `json:"id"`
	// Lowers are the directories of the image's layers, the top one first.
	Lowers []string `json:"lowers"`
	// SubPath is the directory or file of the image that is mounted, "" for all.
	SubPath string `json:"sub_path,omitempty"`
}

// openImage mounts a volume with the pod's ids.
func (m *maker) openImage(v ImageVolume) (*os.File, error) {
	users, err := m.users(m.bundle)
	if err != nil {
		return nil, err
	}
	defer users.Close() // of nil too
	return v.open(users, m.bundle.MountLabel)
}

// open mounts the volume, attached nowhere. There is no upper layer: nothing can
// write to it, whatever its flags. Errors begin with what the kubelet looks for.
func (v ImageVolume) open(users *os.File, label string) (*os.File, error) {
	whole, err := mount.Overlay(v.Lowers, "", "", mount.OverlayOptions{ReadOnly: true, Users: users, Label: label})
	if err != nil {
		return nil, fmt.Errorf("%w: image %s: %w", crierrors.ErrImageVolumeMountFailed, v.ID, err)
	}
	if v.SubPath == "" {
		return whole, nil
	}
	defer whole.Close()
	part, err := mount.Subtree(whole, v.SubPath)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: %w", err, spec.ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: image_sub_path %q of image %s: %w", crierrors.ErrImageVolumeMountFailed, v.SubPath, v.ID, err)
	}
	return part, nil
}
