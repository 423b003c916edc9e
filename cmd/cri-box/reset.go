package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// resetBound is how long taking down everything may take.
const resetBound = 10 * time.Minute

// What lies in the daemon's directories. Nothing else is removed from them: a
// configuration that names the wrong directory must not cost what is in it.
var (
	inRoot  = []string{"pods", "containers", "bin", "network", "images.db", "images.db.broken", "incoming", "layers", "trash", "run"}
	inState = []string{"pods", "containers", "ipam", "keeper.log", "keeper.sock", "admin.sock", "cri-box.sock", stacksFile, "lock"}
)

func resetCommand(n *node) *cobra.Command {
	var yes bool
	var rootDir string
	c := &cobra.Command{
		Use:   "reset",
		Short: "Remove everything that cri-box ever made on this machine; asks first",
		Long: "Remove all pods with their processes, networks and cgroups, all images, the\n" +
			"keeper, and the directories. The daemon must not run; configuration and the\n" +
			"program itself stay.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if needRoot() != nil {
				return errors.New("cannot remove anything: only the machine's own root can; use sudo")
			}
			s := settings{source: config.Source{Path: n.config}}
			if err := errors.Join(s.flag("state", n.state, true), s.flag("root", rootDir, true)); err != nil {
				return err
			}
			if err := s.load(); err != nil {
				return err
			}
			if !yes {
				if err := confirm(s); err != nil {
					return err
				}
			}
			return reset(s)
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().StringVar(&rootDir, "root", "", "`directory` of images, layers and records, if not the configured one")
	return c
}

// confirm asks the person at the terminal.
func confirm(s settings) error {
	fmt.Printf("This removes all pods and containers of %s, all images, and what it keeps in\n  %s\n  %s\nType yes to go on: ", s.instance(), s.root, s.state)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(line) == "yes" {
		return nil
	}
	if err != nil {
		return errors.New("nothing was removed: nobody answered; --yes goes on without asking")
	}
	return errors.New("nothing was removed")
}

// reset takes down what is there as the daemon would. What it needs to try again
// goes last.
func reset(s settings) error {
	if _, err := os.Stat(s.root); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(s.state); errors.Is(err, fs.ErrNotExist) {
			fmt.Println("there is nothing to remove")
			return nil
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, resetBound)
	defer cancel()
	d := &daemon{settings: s, gate: make(chan struct{})}
	if err := d.open(ctx); err != nil {
		d.close()
		if errors.Is(err, errServed) {
			return fmt.Errorf("%w; stop the daemon first", err)
		}
		return err
	}
	lock := d.lock // until all is gone, or another daemon would begin in the middle
	d.lock = nil
	defer lock.Close()
	if err := d.removeAll(ctx); err != nil {
		return fmt.Errorf("not all could be removed; images and records are still there for another try: %w", err)
	}
	if err := errors.Join(removeKnown(s.root, inRoot), removeKnown(s.state, inState)); err != nil {
		return err
	}
	inner, outer := s.root, s.state
	if strings.HasPrefix(s.state, s.root+"/") {
		inner, outer = s.state, s.root
	}
	return errors.Join(removeEmpty(inner), removeEmpty(outer))
}

// removeAll takes down the pods, the keeper, and the network, and closes the parts.
func (d *daemon) removeAll(ctx context.Context) error {
	defer d.close()
	if err := d.removePods(ctx); err != nil {
		return err
	}
	d.sandboxes.Close() // what ends in the background lets go of the keeper's custody
	err := d.keeper.StopKeeper(ctx)
	d.sandboxes, d.keeper = nil, nil
	return err
}

func (d *daemon) removePods(ctx context.Context) error {
	if err := d.sandboxes.Recover(ctx); err != nil {
		return err
	}
	go d.sandboxes.WatchExits(ctx)
	d.keeper.Notify(d.sandboxes.OnExit)
	var wrong []error
	for _, pod := range d.sandboxes.Accounts() {
		err := d.sandboxes.StopPod(ctx, pod.ID)
		if err == nil {
			err = d.sandboxes.RemovePod(ctx, pod.ID)
		}
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		fmt.Println("removed pod", visible(pod.Namespace+"/"+pod.Name))
	}
	return errors.Join(wrong...)
}

// removeKnown removes what is ours in a directory.
func removeKnown(dir string, names []string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	defer root.Close()
	for _, name := range names {
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("cannot remove %s: %w", filepath.Join(dir, name), err)
		}
	}
	return nil
}

// removeEmpty removes a directory if nothing else was in it.
func removeEmpty(dir string) error {
	err := os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: what is still in it is not cri-box's: %w", dir, err)
	}
	fmt.Println("removed", dir)
	return nil
}
