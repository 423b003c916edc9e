package explain

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// textWidth is where long lines are broken.
const textWidth = 100

// Text draws the pod for a terminal. What strangers named must have been made
// harmless before.
func (f *Facts) Text(w io.Writer) error {
	t := &drawing{}
	p := &f.Pod
	t.line("┌─ pod %s/%s  %s  %s", p.Namespace, p.Name, short(p.ID), p.State)
	for _, row := range p.rows() {
		t.row("│  ", row)
	}
	for i := range f.Containers {
		t.container(&f.Containers[i])
	}
	t.line("└─ no process holds it: its namespaces are descriptors in the keeper's and the daemon's hands")
	_, err := io.WriteString(w, t.b.String())
	return err
}

// A row is a title and what stands beside it.
type row struct {
	title string
	items []string
}

// rows is what is shown of a pod, in text and picture.
func (p *Pod) rows() []row {
	rows := []row{
		{"shared", ordered(p.Shared)},
		{"the node's", ordered(p.Node)},
		{"cgroup", nonEmpty(p.Cgroup)},
		{"network", nonEmpty(p.Network)},
	}
	for _, l := range p.Links {
		rows = append(rows, row{"link " + l.Name, l.items()})
	}
	return append(rows, row{"routes", p.Routes}, row{"ports", p.Ports})
}

func (l Link) items() []string {
	items := append([]string{}, l.Addresses...)
	items = append(items, fmt.Sprintf("mtu %d", l.MTU))
	if l.MAC != "" {
		items = append(items, l.MAC)
	}
	if l.Peer != "" {
		items = append(items, "the other end on the node is "+l.Peer)
	}
	return items
}

// rows is what is shown of a container.
func (c *Container) rows() []row {
	rows := []row{{"image", nonEmpty(c.Image)}, {"ended", nonEmpty(c.End)}}
	if c.PID == 0 {
		return rows
	}
	var processes, mounts []string
	for _, p := range c.Processes {
		processes = append(processes, fmt.Sprintf("%d here %d there %s", p.PID, p.Inside, p.Command))
	}
	for _, m := range c.Mounts {
		mounts = append(mounts, fmt.Sprintf("%s (%s %s, %s)", m.Target, m.Type, m.Source, m.Options))
	}
	capabilities := c.Rights.Capabilities
	if c.Rights.AllCapabilities {
		capabilities = []string{"all"}
	}
	return append(rows,
		row{"own", ordered(c.Own)},
		row{"processes", processes},
		row{"cgroup", nonEmpty(c.Group())},
		row{"ration", c.Limits},
		row{"user", nonEmpty(c.Rights.User)},
		row{"capabilities", capabilities},
		row{"seccomp", nonEmpty(c.Rights.Seccomp)},
		row{"no new privs", []string{fmt.Sprint(c.Rights.NoNewPrivileges)}},
		row{"mounts", mounts})
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// ordered lists namespaces in the order of kinds.
func ordered(ns map[string]string) (list []string) {
	for _, kind := range kinds {
		if ns[kind] != "" {
			list = append(list, ns[kind])
		}
	}
	return list
}

func short(id string) string { return id[:min(12, len(id))] }

var ids = regexp.MustCompile(`[0-9a-f]{64}`)

// brief shortens ids within a text, for people.
func brief(s string) string {
	return ids.ReplaceAllStringFunc(s, func(id string) string { return short(id) + "…" })
}

type drawing struct{ b strings.Builder }

func (d *drawing) line(format string, args ...any) {
	d.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

func (d *drawing) container(c *Container) {
	head := fmt.Sprintf("│  ┌─ container %s  %s  %s", c.Name, short(c.ID), c.State)
	if c.PID != 0 {
		head += fmt.Sprintf("  process %d", c.PID)
	}
	d.line("%s", head)
	for _, r := range c.rows() {
		d.row("│  │  ", r)
	}
	d.line("│  └─")
}

// row writes a title with its items, as many on a line as fit; those that are
// long, such as mounts, one on each.
func (d *drawing) row(margin string, r row) {
	title := r.title
	line := ""
	flush := func() {
		if line != "" {
			d.line("%s%-13s%s", margin, title, line)
			title, line = "", ""
		}
	}
	for _, item := range r.items {
		item = brief(item)
		if line != "" && len([]rune(margin))+13+len(line)+2+len(item) > textWidth {
			flush()
		}
		if line != "" {
			line += "  "
		}
		line += item
	}
	flush()
}
