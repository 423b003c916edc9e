package image

import "regexp"

// settings are the part of Config that may change while the store is in use.
type settings struct {
	Config
	pinned []*regexp.Regexp
}

// Configure puts CertsDirs, VerifierDir, Pinned, Limits and StallTimeout of config
// into effect, or none of them if one is wrong; the rest of config is not looked at.
// Pulls under way end with what they began with.
func (s *Store) Configure(config Config) error {
	config = config.withDefaults()
	pinned, err := compilePatterns(config.Pinned)
	if err != nil {
		return err
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	s.live.Store(&settings{config, pinned})
	images := s.now.Load().images()
	for id, img := range images {
		img.Pinned = s.isPinned(img)
		images[id] = img
	}
	s.now.Store(newIndex(images))
	return nil
}
