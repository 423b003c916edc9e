// Command bench measures CRI endpoints side by side: what a pod takes to come up
// and down, an exec, lists and stats, memory and processor time beside the
// workload, logs, images, a restart. Several endpoints in one run take turns, so
// that a slower minute of the machine hits all of them; figures are given with
// their spread, and as ratios to the first.
//
//	go run ./test/bench -start cri-box,containerd,cri-o
//	go run ./test/bench -endpoint cri-box=/run/cri-box/cri-box.sock,cri-box -endpoint peer=/run/containerd/containerd.sock,containerd -image busybox:latest
//
// -start runs the runtimes that are on PATH, each in network and mount namespaces
// of its own with all its files in a temporary directory, and an image made here.
// An endpoint is name=socket, optionally followed by a comma and a regular
// expression for the command lines of its processes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// settings are what a pod of the benchmark is.
type settings struct {
	image     string
	parent    string   // cgroup_parent, as a kubelet gives one
	execs     int      // ExecSync calls in a cycle
	command   []string // nil: sleep
	unlimited bool     // no cpu and memory limits
}

// bench is one run: its flags and what it measures.
type bench struct {
	settings
	plan
	endpoints endpoints
	registry  *registry // nil: the endpoints are others'
	only      string
	tests     string // of test/critest
	files     outputs
}

// plan is how much of everything.
type plan struct {
	pods, rounds, probes int
	clients, sizes       []int
	idleSeconds          int
	restart              int
	peerPods             int
	logMiB, writers      int
	imageScale           int
}

// outputs are the files that take the results, and the one with an earlier run's;
// "" is none.
type outputs struct{ json, svg, markdown, add string }

// sections are the parts of a run, in this order.
var sections = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"cycles", cycles},
	{"throughput", throughputs},
	{"probes", probes},
	{"mounts", mountEvents},
	{"standing", standing},
	{"restart", restarts},
	{"logs", logs},
	{"images", pulls},
	{"behaviour", behaviour},
}

func main() {
	b := &bench{}
	var start string
	flag.StringVar(&start, "start", "", "runtimes to start, such as cri-box,containerd,cri-o")
	flag.Var(&b.endpoints, "endpoint", "name=socket[,process pattern]; may be given several times")
	flag.StringVar(&b.image, "image", "busybox:latest", "with -endpoint: an image with busybox, present at every endpoint")
	flag.StringVar(&b.parent, "cgroup-parent", "/bench", "cgroup_parent of every pod, as a kubelet gives one")
	flag.StringVar(&b.only, "only", "", "sections to run: cycles,throughput,probes,mounts,standing,restart,logs,images,behaviour or all; empty: all but behaviour")
	flag.StringVar(&b.tests, "tests", ".", "which tests of test/critest behaviour runs, as go test -run has it")
	flag.IntVar(&b.pods, "pods", 40, "pod cycles per endpoint")
	flag.IntVar(&b.execs, "execs", 3, "ExecSync calls per cycle")
	flag.IntVar(&b.rounds, "rounds", 3, "turns of each endpoint in the sections that need few")
	flag.IntVar(&b.probes, "probes", 200, "ExecSync calls in a turn of the probe load")
	flag.Var((*numbers)(&b.clients), "clients", "cycles under way at a time (default 1,8,32)")
	flag.Var((*numbers)(&b.sizes), "sizes", "pods that stay up while lists, stats and memory are measured (default 10,100,500,1000)")
	flag.IntVar(&b.peerPods, "peer-pods", 500, "sizes above this are for the first endpoint alone")
	flag.IntVar(&b.idleSeconds, "idle", 10, "seconds of an idle node")
	flag.IntVar(&b.restart, "restart", 300, "pods over which the daemon is killed")
	flag.IntVar(&b.logMiB, "log", 64, "MiB of log lines in a turn")
	flag.IntVar(&b.writers, "writers", 100, "containers that log at once")
	flag.IntVar(&b.imageScale, "image-scale", 32, "size of the images: hundreds of small files, quarters of a MiB of a large one")
	flag.StringVar(&b.files.json, "json", "", "file that takes all samples")
	flag.StringVar(&b.files.add, "add", "", "a file of -json: what it has and this run does not measure is in the results as well")
	flag.StringVar(&b.files.svg, "svg", "", "file that takes a plot of the ratios")
	flag.StringVar(&b.files.markdown, "markdown", "", "file that takes the table")
	flag.Parse()
	b.clients = or(b.clients, 1, 8, 32)
	b.sizes = or(b.sizes, 10, 100, 500, 1000)
	if err := b.main(start); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// numbers implements flag.Value: a list with commas.
type numbers []int

func (n *numbers) String() string { return fmt.Sprint([]int(*n)) }

func (n *numbers) Set(v string) error {
	*n = nil
	for s := range strings.SplitSeq(v, ",") {
		i, err := strconv.Atoi(s)
		if err != nil || i < 1 {
			return fmt.Errorf("%q is not a number above 0", s)
		}
		*n = append(*n, i)
	}
	slices.Sort(*n)
	return nil
}

func or(n []int, def ...int) []int {
	if len(n) == 0 {
		return def
	}
	return n
}

func (b *bench) main(start string) (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	defer func() {
		for _, e := range b.endpoints {
			if e.daemon != nil {
				err = errors.Join(err, e.daemon.stop())
			}
		}
	}()
	if start != "" {
		if b.registry, err = newRegistry(); err != nil {
			return err
		}
		defer b.registry.Close()
		b.image = b.registry.image
		b.endpoints, err = started(strings.Split(start, ","), b.registry)
		if err != nil {
			return err
		}
	}
	if len(b.endpoints) == 0 {
		return errors.New("there is nothing to measure: give -start or -endpoint")
	}
	for _, e := range b.endpoints {
		if err := e.dial(ctx, b); err != nil {
			return errors.Join(err, e.logTail())
		}
	}
	if err := b.run(ctx); err != nil {
		for _, e := range b.endpoints {
			err = errors.Join(err, e.logTail())
		}
		return err
	}
	return b.report()
}

func (b *bench) run(ctx context.Context) error {
	for _, s := range sections {
		only := strings.Split(b.only, ",")
		if b.only == "" && s.name == "behaviour" || b.only != "" && !slices.Contains(only, s.name) && !slices.Contains(only, "all") {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", s.name)
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// cycles gives each endpoint a few pods in turn, one at a time, until all have
// had theirs.
func cycles(ctx context.Context, b *bench) error {
	const turn = 5
	for _, e := range b.endpoints {
		if err := e.quietly(func() error { return e.cycle(ctx, b.settings) }); err != nil { // warm
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	for done := 0; done < b.pods; done += turn {
		for _, e := range b.endpoints {
			if _, err := e.batch(ctx, b.settings, min(turn, b.pods-done), 1); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	return nil
}
