// Command bench measures CRI endpoints side by side: what a pod takes to come up
// and down, an exec, lists and stats, and the memory beside the workload. Several
// endpoints in one run take turns, so that a slower minute of the machine hits
// all of them; figures are given with their spread, and as ratios to the first.
//
//	go run ./test/bench -endpoint cri-box=/run/cri-box/cri-box.sock,cri-box -endpoint peer=/run/containerd/containerd.sock,containerd \
//	    -image busybox:latest -pods 100
//
// An endpoint is name=socket, optionally followed by a comma and a regular
// expression for the command lines of its processes, whose memory is then added up.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

// settings are the flags.
type settings struct {
	endpoints endpoints
	image     string
	pods      int
	clients   int
	execs     int
	idle      int
	parent    string
	jsonFile  string
}

func main() {
	var s settings
	flag.Var(&s.endpoints, "endpoint", "name=socket[,process pattern]; may be given several times")
	flag.StringVar(&s.image, "image", "busybox:latest", "image with sleep and true, present at every endpoint")
	flag.IntVar(&s.pods, "pods", 50, "pod cycles per endpoint")
	flag.IntVar(&s.clients, "clients", 1, "cycles under way at a time")
	flag.IntVar(&s.execs, "execs", 3, "ExecSync calls per pod")
	flag.IntVar(&s.idle, "idle", 40, "pods that stay up while lists, stats and memory are measured; 0: none")
	flag.StringVar(&s.parent, "cgroup-parent", "", "cgroup_parent of every pod, as a kubelet gives one")
	flag.StringVar(&s.jsonFile, "json", "", "file that takes all samples")
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(s settings) error {
	if len(s.endpoints) == 0 {
		return fmt.Errorf("no -endpoint given")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for _, e := range s.endpoints {
		if err := e.dial(ctx, s); err != nil {
			return err
		}
	}
	if err := cycles(ctx, s); err != nil {
		return err
	}
	if s.idle > 0 {
		for _, e := range s.endpoints {
			if err := e.standing(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	s.endpoints.print(os.Stdout)
	if s.jsonFile == "" {
		return nil
	}
	b, err := json.MarshalIndent(s.endpoints.samples(), "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.jsonFile, b, 0o644)
}

// cycles gives each endpoint a batch in turn, until all have had their pods.
func cycles(ctx context.Context, s settings) error {
	batch := max(s.clients*4, 10)
	for done := 0; done < s.pods; done += batch {
		n := min(batch, s.pods-done)
		for _, e := range s.endpoints {
			began := time.Now()
			if err := e.batch(ctx, s, n); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			e.add("pods per second, whole cycle", float64(n)/time.Since(began).Seconds())
		}
	}
	return nil
}
