package image

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// index is all images at one moment. It is never changed, only replaced.
type index struct {
	list   []Image        // sorted by ID
	byName map[string]int // position in list, for tags and digests
}

func newIndex(images map[string]Image) *index {
	x := &index{list: slices.Collect(maps.Values(images)), byName: map[string]int{}}
	slices.SortFunc(x.list, func(a, b Image) int { return cmp.Compare(a.ID, b.ID) })
	for i, img := range x.list {
		for _, name := range img.names() {
			x.byName[name] = i
		}
	}
	return x
}

func (img Image) names() []string { return slices.Concat(img.RepoTags, img.RepoDigests) }

// images returns a copy that may be changed.
func (x *index) images() map[string]Image {
	m := make(map[string]Image, len(x.list))
	for _, img := range x.list {
		m[img.ID] = img
	}
	return m
}

// byID finds an image by the beginning of its hex digits.
func (x *index) byID(hex string) (Image, bool) {
	id := idPrefix + hex
	i, exact := slices.BinarySearchFunc(x.list, id, func(img Image, id string) int { return cmp.Compare(img.ID, id) })
	if exact {
		return x.list[i], true
	}
	if i == len(x.list) || !strings.HasPrefix(x.list[i].ID, id) {
		return Image{}, false
	}
	if i+1 < len(x.list) && strings.HasPrefix(x.list[i+1].ID, id) {
		return Image{}, false // several images begin so
	}
	return x.list[i], true
}

const idPrefix = "sha256:"

var hexDigits = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// Resolve finds an image by tag, by name and digest, or by id: with or without
// "sha256:", whole or the beginning if only one image begins so. Names are
// completed as Docker does. A name wins over the beginning of an id.
func (s *Store) Resolve(refOrID string) (Image, bool) {
	x := s.now.Load()
	if hex, ok := strings.CutPrefix(refOrID, idPrefix); ok {
		if !hexDigits.MatchString(hex) {
			return Image{}, false
		}
		return x.byID(hex)
	}
	if named, err := parseName(refOrID); err == nil {
		if i, ok := x.byName[named.String()]; ok {
			return x.list[i], true
		}
	}
	if hexDigits.MatchString(refOrID) {
		return x.byID(refOrID)
	}
	return Image{}, false
}

// setUser splits the configuration's user, "name or uid[:group]".
func (img *Image) setUser() {
	user, _, _ := strings.Cut(img.Config.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		img.UID = &uid
		return
	}
	img.Username = user
}

// compilePatterns compiles names in which "*" stands for anything.
func compilePatterns(patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, p := range patterns {
		if p == "" {
			return nil, fmt.Errorf("cannot use an empty pattern for pinned images: give a name, in which * stands for anything")
		}
		if !strings.Contains(p, "*") {
			if named, err := parseName(p); err == nil {
				p = named.String()
			}
		}
		out = append(out, regexp.MustCompile("^"+strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, ".*")+"$"))
	}
	return out, nil
}

func (s *Store) isPinned(img Image) bool {
	for _, name := range img.names() {
		for _, p := range s.live.Load().pinned {
			if p.MatchString(name) {
				return true
			}
		}
	}
	return false
}
