package mode

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/cri-box/cri-box/network/cni"
)

// A Report says which network pods get, why, and what is missing.
type Report struct {
	// Mode is the configured one, Serves what it comes to: "embedded" or "cni".
	Mode   string `json:"mode"`
	Serves string `json:"serves"`
	Why    string `json:"why"`
	// NotReady is why no pod can start; empty if one can.
	NotReady string         `json:"not_ready,omitempty"`
	Note     string         `json:"note,omitempty"`
	PodCIDRs []netip.Prefix `json:"pod_cidrs,omitempty"`
	// Ranges and Pods are the embedded network's; no ranges: it is not in use.
	Ranges []netip.Prefix `json:"ranges,omitempty"`
	Pods   int            `json:"pods,omitempty"`
	// CNI is nil in mode embedded.
	CNI *cni.Report `json:"cni,omitempty"`
}

// Report tells how things are; it runs no plugin.
func (n *Network) Report() Report {
	r := Report{Mode: n.cfg.Mode, Serves: Embedded, Note: n.Note()}
	if err := n.Ready(); err != nil {
		r.NotReady = err.Error()
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	r.PodCIDRs, r.Why = n.cidrs, n.why()
	if n.useCNI() {
		r.Serves = CNI
	}
	if n.embedded != nil {
		r.Ranges, r.Pods = n.embedded.Ranges(), n.embedded.Pods()
	}
	if n.cni != nil {
		c := n.cni.Report()
		r.CNI = &c
	}
	return r
}

// Look is what can be said without a daemon: what one would find.
func Look(cfg Config) Report {
	r := Report{Mode: cfg.Mode, Serves: cfg.Mode, Why: "the configuration says mode = " + cfg.Mode, NotReady: "no daemon answers"}
	if cfg.Mode == Embedded {
		return r
	}
	r.CNI = &cni.Report{ConfDirs: cfg.CNI.ConfDirs, BinDirs: cfg.CNI.BinDirs, Files: cni.Look(cfg.CNI.ConfDirs, cfg.CNI.BinDirs)}
	if cfg.Mode == Auto {
		r.Serves, r.Why = Embedded, "there is no CNI configuration that can be used"
		for _, f := range r.CNI.Files {
			if f.Problem == "" {
				r.Serves, r.Why = CNI, "there is a CNI configuration that can be used"
			}
		}
	}
	return r
}

func (n *Network) why() string {
	switch {
	case n.cfg.Mode != Auto:
		return "the configuration says mode = " + n.cfg.Mode
	case n.served.Load():
		return "plugins have attached a pod before; mode auto does not go back"
	case n.cni.Configured():
		return "there is a CNI configuration that can be used"
	}
	return "there is no CNI configuration that can be used"
}

// Print writes the report for a person.
func (r Report) Print(w io.Writer) error {
	p := printer{w: w}
	p.line("mode      %s", r.Mode)
	p.line("serves    %s: %s", r.Serves, r.Why)
	p.line("ready     %s", verdict(r.NotReady))
	for _, c := range r.PodCIDRs {
		p.line("pod CIDR  %s, from the kubelet", c)
	}
	if len(r.Ranges) > 0 {
		p.line("embedded  %d pods in %v", r.Pods, r.Ranges)
	}
	if r.CNI != nil {
		p.cni(*r.CNI)
	}
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func verdict(problem string) string {
	if problem == "" {
		return "yes"
	}
	return "no: " + problem
}

func (p *printer) cni(r cni.Report) {
	p.line("files     in %v", r.ConfDirs)
	for _, f := range r.Files {
		mark, text := " ", "network "+f.Network
		if f.Serves {
			mark = "*"
		}
		if f.Problem != "" {
			text = "cannot be used: " + f.Problem
		}
		p.line("        %s %s: %s", mark, f.File, text)
	}
	if r.LastGood {
		p.line("          network %s serves as last read from %s", r.Network, r.Serving)
	}
	p.line("plugins   in %v", r.BinDirs)
	for _, one := range r.Plugins {
		if one.Path == "" {
			one.Path = "MISSING"
		}
		p.line("          %s: %s", one.Type, one.Path)
	}
	p.line("pods      %d attached, %d whose DEL has not succeeded", r.Attached, len(r.Leaving))
	for _, l := range r.Leaving {
		p.line("          %s (%.12s): %d attempts, next %s: %s", l.Name, l.Pod, l.Attempts, l.Next.Format(time.RFC3339), l.Error)
	}
}
