package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/cri-box/cri-box/oci"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// imageVolumes finds the images that the container mounts. Their layers stay as
// long as the container does.
func (m *Manager) imageVolumes(c *Container) error {
	for i, mt := range c.Config.Of.GetMounts() {
		if mt.GetImage() == nil {
			continue
		}
		img, err := m.resolveImage(mt.GetImage())
		if err != nil {
			return fmt.Errorf("%w: mounts[%d].image: %w", crierrors.ErrImageVolumeMountFailed, i, err)
		}
		if c.Bundle.Images == nil {
			c.Bundle.Images = map[string]oci.ImageVolume{}
		}
		c.Bundle.Images[m.imageSource(c.ID, i)] = oci.ImageVolume{ID: img.ID, Lowers: m.cfg.Images.LayerPaths(img), SubPath: mt.GetImageSubPath()}
		c.Image.Layers = append(c.Image.Layers[:len(c.Image.Layers):len(c.Image.Layers)], img.Layers...)
	}
	return nil
}

// imageSource names the image of a container's mount i as a mount's source.
// There is nothing at that path.
func (m *Manager) imageSource(id string, i int) string {
	return filepath.Join(m.containerDir(id), "images", strconv.Itoa(i))
}

// kubeletError puts what the kubelet looks for where it looks for it, at the
// beginning of the message.
func kubeletError(err error) error {
	if errors.Is(err, crierrors.ErrImageVolumeMountFailed) {
		return fmt.Errorf("%w: %w", crierrors.ErrImageVolumeMountFailed, err)
	}
	return err
}
