package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
)

// configure is the role "config".
func configure(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "default":
		return config.WriteDefault(os.Stdout)
	case len(args) == 2 && args[0] == "check":
		_, files, err := config.Load(config.Source{Path: args[1]})
		if err != nil {
			return err
		}
		for _, file := range files {
			fmt.Println(file, "is right")
		}
		return nil
	}
	return errors.New("usage: cri-box config default, or cri-box config check FILE")
}
