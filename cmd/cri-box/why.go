package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cri-box/cri-box/oci/image"
	"github.com/cri-box/cri-box/sandbox"
	"github.com/distribution/reference"
	"github.com/spf13/cobra"
)

// whyBound is how long `why` waits for the daemon: it reads memory only, so that
// a daemon which takes longer is wedged itself.
const whyBound = 10 * time.Second

// A report is what the daemon knows of its pods at one moment.
type report struct {
	Recovering bool              `json:"recovering"`
	Network    string            `json:"network"` // "" when ready
	Pods       []sandbox.Account `json:"pods"`
	Pulls      []image.Doing     `json:"pulls,omitempty"`
	Failures   []failure         `json:"failures"`
}

// serveWhy answers from memory: it waits for no pod, disk, or plugin.
func (d *daemon) serveWhy(w http.ResponseWriter, _ *http.Request) {
	r := report{Recovering: !d.recovered.Load(), Pods: d.sandboxes.Accounts(), Pulls: d.images.Doing(), Failures: d.failures.list()}
	if err := d.network.Ready(); err != nil {
		r.Network = err.Error()
	}
	answer(w, r)
}

func whyCommand(n *node) *cobra.Command {
	return &cobra.Command{
		Use:   "why [POD|IMAGE]",
		Short: "Say why a pod is not up: its step, for how long, the last error, what to do",
		Long: "Say how a pod stands: the step at which it is and for how long, its containers,\n" +
			"the last error, and what to do next; or where the pull of an image stands. Without\n" +
			"a name: every pod that is at a step or had an error, and every pull under way.",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: n.complete(1, podRefs),
		RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(whyBound, func(ctx context.Context, c *client) error { return c.why(ctx, strings.Join(args, "")) })
		},
	}
}

func (c *client) why(ctx context.Context, ref string) error {
	body, err := ask(ctx, c.settings.state, http.MethodGet, "/why")
	if err != nil {
		return err
	}
	defer body.Close()
	var r report
	if err := json.NewDecoder(body).Decode(&r); err != nil {
		return fmt.Errorf("cannot read the daemon's answer: %w", err)
	}
	r.choose(ref)
	if ref != "" && len(r.Pods)+len(r.Pulls)+len(r.Failures) == 0 {
		return fmt.Errorf("the daemon knows no pod %q and no error of one: if the kubelet should have made it, look at the kubelet's log; `cri-box pods` lists pods", ref)
	}
	if c.format == "json" {
		return printJSON(r)
	}
	r.print()
	return nil
}

// choose keeps what ref means; "" keeps what is not as it should be.
func (r *report) choose(ref string) {
	failed := map[string]bool{}
	failures := []failure{} // a list also for programs when there is none
	for _, f := range r.Failures {
		_, name, _ := strings.Cut(f.Pod, "/")
		if ref == "" || ref == f.Pod || ref == name {
			failures = append(failures, f)
			failed[f.Pod] = true
		}
	}
	pods := []sandbox.Account{}
	for _, p := range r.Pods {
		full := p.Namespace + "/" + p.Name
		wrong := p.Doing != nil || p.Problem != "" || failed[full]
		for _, x := range p.Containers {
			wrong = wrong || x.Doing != nil
		}
		if ref == "" && wrong || ref != "" && (ref == full || ref == p.Name || strings.HasPrefix(p.ID, ref)) {
			pods = append(pods, p)
		}
	}
	r.Pods, r.Failures = pods, failures
	whole := wholeName(ref)
	r.Pulls = slices.DeleteFunc(r.Pulls, func(p image.Doing) bool { return ref != "" && whole != p.Image })
}

// wholeName completes an image's name as a pull does; what is none stays as it is.
func wholeName(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return named.String()
}

func (r *report) print() {
	if r.Recovering {
		fmt.Println("The daemon still reads its records: nothing can start before.")
	}
	if r.Network != "" {
		fmt.Printf("The network is not ready: %s. No pod with a network of its own can start.\n", visible(r.Network))
	}
	shown := map[string]bool{}
	for _, p := range r.Pods {
		full := p.Namespace + "/" + p.Name
		printAccount(p)
		for _, f := range r.Failures {
			if f.Pod == full && !shown[full] {
				f.print()
			}
		}
		shown[full] = true
	}
	for _, f := range r.Failures {
		if !shown[f.Pod] {
			fmt.Printf("pod %s is not here: it could not be made, or is gone\n", visible(f.Pod))
			f.print()
		}
	}
	for _, p := range r.Pulls {
		fmt.Printf("pull of %s\n", visible(p.Image))
		printStage(&sandbox.Stage{Name: p.Stage, Since: p.Since})
	}
	if len(r.Pods)+len(r.Pulls)+len(r.Failures) == 0 {
		fmt.Println("No pod is at a step, and none had an error since the daemon began.")
	}
}

func printAccount(p sandbox.Account) {
	state := "not ready"
	if p.Ready {
		state = "ready"
	}
	fmt.Printf("pod %s (%s) is %s, made %s ago\n", visible(p.Namespace+"/"+p.Name), short(p.ID), state, roughly(time.Since(p.Created)))
	printStage(p.Doing)
	if p.Problem != "" {
		fmt.Printf("  problem: %s\n  next: the kubelet makes a new one; without a kubelet: cri-box rm --force --pod %s\n", visible(p.Problem), short(p.ID))
	}
	if len(p.Containers) == 0 && p.Ready && p.Doing == nil {
		fmt.Println("  no container in it yet: the image may still be pulled, or the kubelet has asked for none")
	}
	for _, x := range p.Containers {
		fmt.Printf("  container %s (%s) of %s: %s, made %s ago\n", visible(x.Name), short(x.ID), visible(x.Image), x.State, roughly(time.Since(x.Created)))
		printStage(x.Doing)
		if x.End != nil {
			fmt.Printf("    ended %s ago: code %d, %s %s\n    next: %s\n", roughly(time.Since(x.End.At)), x.End.Code, x.End.Reason, visible(x.End.Message), advice(x))
		}
	}
}

func printStage(s *sandbox.Stage) {
	if s == nil {
		return
	}
	fmt.Printf("    at step %q for %s\n", s.Name, roughly(time.Since(s.Since)))
	next := "nothing yet; if it stays there, kill -USR1 of the daemon writes what it waits for to stacks.txt in its state directory"
	if s.Waits != nil {
		fmt.Printf("    waits for %s, since %s\n", visible(s.Waits.For), roughly(time.Since(s.Waits.Since)))
		next = s.Waits.Next
	}
	fmt.Println("    next:", visible(next))
}

func (f failure) print() {
	fmt.Printf("  last error, %s ago, in %s: %s\n  next: %s\n", roughly(time.Since(f.At)), f.Call, visible(f.Text), f.advice())
}

// advice is what to do about a call that failed.
func (f failure) advice() string {
	switch {
	case f.Call == "PullImage":
		return "cri-box images explain IMAGE shows which hosts are asked, in which order, with which credentials"
	case f.Call == "RunPodSandbox" && strings.Contains(f.Text, "network"):
		return "cri-box doctor network says which network pods get, and what is missing"
	case f.Call == "RunPodSandbox", f.Call == "CreateContainer":
		return "correct what the message names; the kubelet tries again by itself, cri-box run has to be repeated"
	case f.Call == "StartContainer":
		return "see that the image has the command and the user that are asked for; cri-box explain --calls CONTAINER shows each step"
	}
	return "the kubelet tries again by itself; if it stays, cri-box doctor looks at this machine"
}

// advice is what to do about a container that ended.
func advice(x sandbox.ContainerAccount) string {
	switch {
	case x.End.Reason == sandbox.ReasonOOMKilled:
		return "it needed more memory than its limit: raise the limit, or see what it uses"
	case x.End.Reason == sandbox.ReasonStartError:
		return "the message names the step that failed; `cri-box explain` shows them all"
	case x.End.Reason == sandbox.ReasonUnknown:
		return "nobody saw its end; the message says why"
	case x.End.Code == 0:
		return "nothing: it did what it was to do"
	case x.End.Code == 127 || x.End.Code == 126:
		return "its command is not in the image or cannot be executed: see its log"
	case x.End.Code > 128:
		return fmt.Sprintf("signal %d ended it: cri-box logs %s", x.End.Code-128, short(x.ID))
	}
	return "its own log says why: cri-box logs " + short(x.ID)
}
