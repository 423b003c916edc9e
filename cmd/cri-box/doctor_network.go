package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/cri-box/cri-box/network/mode"
	"github.com/spf13/cobra"
)

func doctorNetworkCommand(n *node) *cobra.Command {
	return &cobra.Command{
		Use:   "network",
		Short: "Say which network pods get, why, and what is missing",
		Long: "Say which network pods get, from which file and by which plugins, why, whether a\n" +
			"pod can start, and which pods ended without their plugins having agreed. Without a\n" +
			"daemon: what one would find.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return n.doctorNetwork(cmd.Context()) },
	}
}

func (n *node) doctorNetwork(ctx context.Context) error {
	s, err := n.settings()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, whyBound)
	defer cancel()
	var r mode.Report
	body, err := ask(ctx, s.state, http.MethodGet, "/network")
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri-box:", err)
		r = mode.Look(s.networkConfig())
	} else {
		defer body.Close()
		if err := json.NewDecoder(body).Decode(&r); err != nil {
			return fmt.Errorf("cannot read the daemon's answer: %w", err)
		}
	}
	if n.format == "json" {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	return r.Print(os.Stdout)
}
