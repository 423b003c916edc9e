package main

import (
	"fmt"
	"os"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"github.com/spf13/cobra"
)

func configCommand(n *node) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Show or judge the configuration"}
	c.AddCommand(&cobra.Command{
		Use:   "default",
		Short: "Print all settings with their meaning, what they accept, and their defaults",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return config.WriteDefault(os.Stdout) },
	}, &cobra.Command{
		Use:   "check FILE",
		Short: "Judge a configuration file and conf.d beside it",
		Args:  cobra.ExactArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return checkConfig(args[0], n.format == "json") },
	})
	return c
}

func checkConfig(path string, asJSON bool) error {
	_, files, err := config.Load(config.Source{Path: path})
	if err != nil {
		return fmt.Errorf("cannot use configuration:\n%w", err)
	}
	if asJSON {
		return printJSON(map[string][]string{"right": files})
	}
	for _, file := range files {
		fmt.Println(file, "is right")
	}
	return nil
}
