package main

import (
	"fmt"
	"math"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// serveFlags are the settings that have a flag of their own.
var serveFlags = []struct {
	name, key, help string
	path            bool
}{
	{"listen", "listen", "`path` of the CRI socket (default STATE/cri-box.sock)", true},
	{"root", "root", "`directory` of images, layers and records (default /var/lib/cri-box)", true},
	{"log-level", "log.level", "debug, info, warn or error", false},
	{"log-format", "log.format", "text or json", false},
}

func serveCommand(n *node) *cobra.Command {
	values := make([]string, len(serveFlags))
	var pairs []string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: "Run the daemon: CRI server, images, network, containers. Flags override\n" +
			config.Default + " and the files in conf.d beside it. SIGHUP reads these again.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			if err := closeInherited(); err != nil {
				return err
			}
			s := settings{source: config.Source{Path: n.config, Flags: pairs}}
			for i, f := range serveFlags {
				if err := s.flag(f.key, values[i], f.path); err != nil {
					return err
				}
			}
			if err := s.flag("state", n.state, true); err != nil {
				return err
			}
			if err := s.load(); err != nil {
				return err
			}
			return serve(s)
		},
	}
	for i, f := range serveFlags {
		c.Flags().StringVar(&values[i], f.name, "", f.help)
	}
	c.Flags().StringArrayVar(&pairs, "set", nil, "any setting, as `key=value`, such as image.max_concurrent_layers=8")
	return c
}

// closeInherited keeps what a careless parent left open out of the keeper, its
// spawners and the containers. What systemd hands over (sd_listen_fds(3)) stays
// open here; that too is not for children.
func closeInherited() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("cannot keep inherited descriptors to myself: %w", err)
	}
	return nil
}
