package spec

import (
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func process(in Input) (*specs.Process, error) {
	args, err := arguments(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	user, err := ResolveUser(in.security(), in.Image.User, in.Passwd, in.Group)
	if err != nil {
		return nil, err
	}
	if err := checkMapped(user.spec(), SandboxIDs(in.Sandbox)); err != nil {
		return nil, err
	}
	env, err := environment(in, user.Home)
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(in)
	if err != nil {
		return nil, err
	}
	apparmor, _, err := AppArmor(in.security(), in.Host.AppArmor)
	if err != nil {
		return nil, err
	}
	adj := oomScoreAdj(in)
	return &specs.Process{
		Terminal:        in.Config.GetTty(),
		User:            user.spec(),
		Args:            args,
		Env:             env,
		Cwd:             cwd,
		Capabilities:    caps,
		Rlimits:         rlimits(in.Defaults.Ulimits, in.Host.HardLimits),
		ApparmorProfile: apparmor,
		SelinuxLabel:    in.Labels.Process,
		NoNewPrivileges: in.security().GetNoNewPrivs(),
		OOMScoreAdj:     &adj,
	}, nil
}

// arguments puts the request over the image: command replaces ENTRYPOINT and
// drops CMD, args replaces CMD.
func arguments(c *runtimeapi.ContainerConfig, image ocispec.ImageConfig) ([]string, error) {
	command, args := c.GetCommand(), c.GetArgs()
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := slices.Concat(command, args)
	if len(all) == 0 || all[0] == "" {
		return nil, invalid("command and args are empty and the image has no ENTRYPOINT or CMD: set command")
	}
	for i, a := range all {
		if hasNUL(a) {
			return nil, invalid("argument %d of the command contains a NUL byte, which execve(2) cannot pass", i)
		}
	}
	return all, nil
}

// environment layers defaults, image and request; the last one to set a name
// wins and a name keeps its first place. Values are bytes and pass unchanged.
func environment(in Input, home string) ([]string, error) {
	name := in.Sandbox.GetHostname()
	if name == "" {
		name = in.Host.Hostname
	}
	env := layers{at: map[string]int{}}
	if in.Defaults.Path != "" {
		env.set("PATH", in.Defaults.Path)
	}
	env.set("HOSTNAME", name)
	if in.Config.GetTty() {
		env.set("TERM", "xterm")
	}
	env.set("HOME", home)
	for i, e := range in.Image.Env {
		k, v, found := strings.Cut(e, "=")
		if hasNUL(e) {
			return nil, invalid("environment entry %d of the image contains a NUL byte", i)
		}
		// A name without a value is how a Dockerfile's ENV is unset.
		if found && k != "" {
			env.set(k, v)
		}
	}
	for _, e := range in.Config.GetEnvs() {
		env.set(e.GetKey(), string(e.GetValue()))
	}
	return env.list, nil
}

// layers is an environment that later entries overwrite. The index keeps an image
// with a million variables from costing a million squared.
type layers struct {
	list []string
	at   map[string]int // where in list each name stands
}

func (l *layers) set(key, value string) {
	entry := key + "=" + value
	if i, set := l.at[key]; set {
		l.list[i] = entry
		return
	}
	l.at[key] = len(l.list)
	l.list = append(l.list, entry)
}

func workingDir(c *runtimeapi.ContainerConfig, image ocispec.ImageConfig) (string, error) {
	dir, field := c.GetWorkingDir(), "working_dir"
	if dir == "" {
		dir, field = image.WorkingDir, "the image's WORKDIR"
	}
	if dir == "" {
		return "/", nil
	}
	if !absolute(dir) {
		return "", invalid("%s %q must be an absolute path", field, dir)
	}
	return path.Clean(dir), nil
}

// oomScoreAdj is as low as asked for or, without CAP_SYS_RESOURCE, as possible.
func oomScoreAdj(in Input) int {
	return max(int(in.Config.GetLinux().GetResources().GetOomScoreAdj()), in.Host.MinOOMScoreAdj)
}

// rlimits always sets RLIMIT_NOFILE: the Go runtime raises its own soft limit and
// a process made by a raw clone would inherit that.
func rlimits(ulimits []specs.POSIXRlimit, hard map[string]uint64) []specs.POSIXRlimit {
	out := slices.Clone(ulimits)
	if !slices.ContainsFunc(out, func(l specs.POSIXRlimit) bool { return l.Type == defaultNofile.Type }) {
		out = append(out, defaultNofile)
	}
	for i := range out {
		if limit, bounded := hard[out[i].Type]; bounded {
			out[i].Hard = min(out[i].Hard, limit)
		}
		out[i].Soft = min(out[i].Soft, out[i].Hard)
	}
	return out
}

// Exec returns the process that runs cmd, which must not be empty, beside base's
// own: same user, groups, capabilities, environment, directory and limits. What
// Container sets is copied, so that neither process can change the other.
func Exec(base *specs.Spec, cmd []string, tty bool) *specs.Process {
	p := *base.Process
	p.Args = slices.Clone(cmd)
	p.Terminal = tty
	p.ConsoleSize = nil
	p.Env = slices.Clone(p.Env)
	if tty && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	p.Rlimits = slices.Clone(p.Rlimits)
	p.User.AdditionalGids = slices.Clone(p.User.AdditionalGids)
	p.User.Umask = clonePtr(p.User.Umask)
	p.OOMScoreAdj = clonePtr(p.OOMScoreAdj)
	if c := p.Capabilities; c != nil {
		p.Capabilities = &specs.LinuxCapabilities{
			Bounding:    slices.Clone(c.Bounding),
			Effective:   slices.Clone(c.Effective),
			Inheritable: slices.Clone(c.Inheritable),
			Permitted:   slices.Clone(c.Permitted),
			Ambient:     slices.Clone(c.Ambient),
		}
	}
	return &p
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
