package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cri-box/cri-box/oci"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// imageVolumes finds the images that the container mounts and holds their layers
// as the container's own, so that they stay as long as it does.
func (m *Manager) imageVolumes(c *Container) error {
	for i, mt := range c.Config.Of.GetMounts() {
		if mt.GetImage() == nil {
			continue
		}
		source := m.imageSource(c.ID, i)
		img, ok := m.cfg.Images.HoldImage(source, mt.GetImage().GetImage())
		if !ok {
			return fmt.Errorf("%w: mounts[%d].image %q is not on this node; pull it first: %w", crierrors.ErrImageVolumeMountFailed, i, mt.GetImage().GetImage(), ErrNotFound)
		}
		if c.Bundle.Images == nil {
			c.Bundle.Images = map[string]oci.ImageVolume{}
		}
		c.Bundle.Images[source] = oci.ImageVolume{ID: img.ID, Lowers: m.cfg.Images.LayerPaths(img), SubPath: mt.GetImageSubPath()}
		c.Image.Layers = slices.Concat(c.Image.Layers, img.Layers)
		m.cfg.Images.Hold(c.ID, c.Image.Layers)
		m.cfg.Images.Release(source)
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
