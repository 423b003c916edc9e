package cni

import (
	"path/filepath"
	"time"
)

// A Report is what a person needs to see why pods have, or have not, a network.
type Report struct {
	ConfDirs []string `json:"conf_dirs"`
	BinDirs  []string `json:"bin_dirs"`
	// Files are all configuration files in their order, with what is wrong with
	// each; Serves marks the one that pods get.
	Files []FileReport `json:"files"`
	// Serving names network and file that pods get; LastGood says that the file
	// is not what serves any more.
	Network  string `json:"network,omitempty"`
	Serving  string `json:"serving,omitempty"`
	LastGood bool   `json:"last_good,omitempty"`
	// Plugins are the serving network's, with the path of each, empty if missing.
	Plugins []PluginReport `json:"plugins,omitempty"`
	// NotReady is why no pod can start; empty if one can.
	NotReady string `json:"not_ready,omitempty"`
	// StatusAt is when STATUS was last asked; zero if the network's version has none.
	StatusAt time.Time `json:"status_at,omitzero"`
	// Leaving are pods that ended and whose DEL has not succeeded.
	Leaving  []LeavingReport `json:"leaving,omitempty"`
	Attached int             `json:"attached"`
}

// A FileReport is one configuration file.
type FileReport struct {
	File    string `json:"file"`
	Network string `json:"network,omitempty"`
	Problem string `json:"problem,omitempty"`
	Serves  bool   `json:"serves,omitempty"`
}

// A PluginReport is one plugin of a network.
type PluginReport struct {
	Type string `json:"type"`
	Path string `json:"path,omitempty"`
}

// A LeavingReport is a DEL that failed so far.
type LeavingReport struct {
	Pod      string    `json:"pod"`
	Name     string    `json:"name"`
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next"`
	Error    string    `json:"error"`
}

// Report looks at directories and memory; it runs no plugin.
func (n *Network) Report() Report {
	s := n.serving.Load()
	r := Report{ConfDirs: n.cfg.ConfDirs, BinDirs: n.cfg.BinDirs, StatusAt: s.status.at}
	r.Files = Look(n.cfg.ConfDirs, n.cfg.BinDirs)
	if s.config != nil {
		r.Network, r.Serving, r.LastGood = s.config.list.Name, s.config.file, true
		for i := range r.Files {
			if f := &r.Files[i]; f.File == s.config.file {
				f.Serves = true
				r.LastGood = f.Problem != ""
			}
		}
		for _, plugin := range s.config.list.Plugins {
			path, _ := findPlugin(plugin.Network.Type, n.cfg.BinDirs)
			r.Plugins = append(r.Plugins, PluginReport{plugin.Network.Type, path})
		}
	}
	if err := n.Ready(); err != nil {
		r.NotReady = err.Error()
	}
	for _, one := range n.journal.all() {
		if !one.Leaving {
			r.Attached++
			continue
		}
		r.Leaving = append(r.Leaving, LeavingReport{one.Pod, one.Namespace + "/" + one.Name, one.Attempts, one.Next, one.LastError})
	}
	return r
}

// Look says of each configuration file whether it could serve. It needs no Network,
// so that it answers also while no daemon runs.
func Look(confDirs, binDirs []string) []FileReport {
	var problems []Problem
	out := []FileReport{}
	for _, file := range list(confDirs, &problems) {
		one, err := read(file, binDirs)
		if err != nil {
			out = append(out, FileReport{File: filepath.Clean(file), Problem: err.Error()})
			continue
		}
		out = append(out, FileReport{File: file, Network: one.list.Name})
	}
	for _, p := range problems {
		out = append(out, FileReport{File: p.File, Problem: p.Why})
	}
	return out
}
