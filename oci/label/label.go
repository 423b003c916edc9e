// Package label gives pods their SELinux labels: one for processes, one for what
// is mounted for them, both with two categories that no other pod has.
//
// Which categories are taken is not written down: it follows from the labels in
// the pods' records, which are held again at start.
package label

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"sync"

	"github.com/opencontainers/selinux/go-selinux"
)

// categories is how many the reference policy has (c0 to c1023).
const categories = 1024

// Options are a request's changes to the policy's own label of containers; empty
// parts stay as they are.
type Options struct{ User, Role, Type, Level string }

// Labels are those of a pod or container; both empty without SELinux.
type Labels struct {
	Process string `json:"process,omitempty"`
	Mount   string `json:"mount,omitempty"`
}

// A Pool gives labels. Its methods may be called concurrently.
type Pool struct {
	base Labels // the policy's, without a level of their own

	mu    sync.Mutex
	taken map[string]int // by how many pods, by level
}

// Open returns the pool of this node: one that is not active where SELinux is not,
// or has no policy for containers.
func Open() *Pool {
	if !selinux.GetEnabled() {
		return NewPool(Labels{})
	}
	process, file := selinux.ContainerLabels()
	selinux.ReleaseLabel(process) // categories are given here
	return NewPool(Labels{Process: process, Mount: file})
}

// NewPool returns a pool that gives labels like base.
func NewPool(base Labels) *Pool { return &Pool{base: base, taken: map[string]int{}} }

// Active says whether there are labels at all.
func (p *Pool) Active() bool { return p.base.Process != "" }

// New gives a pod its labels, with categories of its own unless o has a level, and
// takes them. Drop gives them back.
func (p *Pool) New(o Options) (Labels, error) {
	if !p.Active() {
		return Labels{}, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	level := o.Level
	if level == "" {
		var err error
		if level, err = p.freeLocked(); err != nil {
			return Labels{}, err
		}
	}
	l, err := Labels{Process: p.base.Process, Mount: p.base.Mount}.With(Options{User: o.User, Role: o.Role, Type: o.Type, Level: level})
	if err == nil {
		p.taken[level]++
	}
	return l, err
}

// freeLocked finds two categories that are nobody's.
func (p *Pool) freeLocked() (string, error) {
	for range 10 * categories {
		a, b := rand.IntN(categories), rand.IntN(categories)
		if a == b {
			continue
		}
		if level := fmt.Sprintf("s0:c%d,c%d", min(a, b), max(a, b)); p.taken[level] == 0 {
			return level, nil
		}
	}
	return "", errors.New("cannot find SELinux categories that no pod has")
}

// Hold takes labels that were given before, by an earlier daemon.
func (p *Pool) Hold(l Labels) {
	if level := levelOf(l.Process); level != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken[level]++
	}
}

// Drop gives labels back.
func (p *Pool) Drop(l Labels) {
	p.mu.Lock()
	defer p.mu.Unlock()
	level := levelOf(l.Process)
	if p.taken[level]--; p.taken[level] <= 0 {
		delete(p.taken, level)
	}
}

// With returns the labels changed by o: user and level in both, role and type, which
// are a process's, in that alone.
func (l Labels) With(o Options) (Labels, error) {
	if l.Process == "" {
		return l, nil
	}
	process, err := selinux.NewContext(l.Process)
	if err != nil {
		return Labels{}, fmt.Errorf("cannot read SELinux label %q: %w", l.Process, err)
	}
	file, err := selinux.NewContext(l.Mount)
	if err != nil {
		return Labels{}, fmt.Errorf("cannot read SELinux label %q: %w", l.Mount, err)
	}
	for _, c := range []struct{ part, value string }{{"user", o.User}, {"role", o.Role}, {"type", o.Type}, {"level", o.Level}} {
		if c.value == "" {
			continue
		}
		process[c.part] = c.value
		if c.part == "user" || c.part == "level" {
			file[c.part] = c.value
		}
	}
	return Labels{Process: process.Get(), Mount: file.Get()}, nil
}

func levelOf(label string) string {
	c, err := selinux.NewContext(label)
	if err != nil {
		return ""
	}
	return c["level"]
}

var (
	word  = regexp.MustCompile(`^[a-zA-Z0-9_.]*$`)
	level = regexp.MustCompile(`^[a-z0-9_.,:-]*$`)
)

// Check refuses options that could be more than a part of a label.
func (o Options) Check() error {
	for _, c := range []struct {
		field, value string
		right        *regexp.Regexp
	}{{"user", o.User, word}, {"role", o.Role, word}, {"type", o.Type, word}, {"level", o.Level, level}} {
		if len(c.value) > 255 || !c.right.MatchString(c.value) {
			return fmt.Errorf("%s %q is no part of an SELinux label", c.field, c.value)
		}
	}
	return nil
}
