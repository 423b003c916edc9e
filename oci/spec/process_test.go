package spec

import (
	"fmt"
	"slices"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestArguments(t *testing.T) {
	image := ocispec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for _, c := range []struct {
		name          string
		image         ocispec.ImageConfig
		command, args []string
		want          []string
	}{
		{"image", image, nil, nil, []string{"entry", "cmd"}},
		{"args replace CMD", image, nil, []string{"a"}, []string{"entry", "a"}},
		{"command drops both", image, []string{"c"}, nil, []string{"c"}},
		{"command and args", image, []string{"c", "d"}, []string{"a"}, []string{"c", "d", "a"}},
		{"CMD alone", ocispec.ImageConfig{Cmd: []string{"cmd"}}, nil, nil, []string{"cmd"}},
		{"args alone", ocispec.ImageConfig{}, nil, []string{"a", ""}, []string{"a", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := arguments(&runtimeapi.ContainerConfig{Command: c.command, Args: c.args}, c.image)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "args", got, c.want)
		})
	}
	_, err := arguments(&runtimeapi.ContainerConfig{}, ocispec.ImageConfig{})
	wantInvalid(t, err, "ENTRYPOINT", "set command")
	_, err = arguments(&runtimeapi.ContainerConfig{Args: []string{""}}, ocispec.ImageConfig{})
	wantInvalid(t, err, "command")
	_, err = arguments(&runtimeapi.ContainerConfig{}, ocispec.ImageConfig{Cmd: []string{"a", "b\x00"}})
	wantInvalid(t, err, "argument 1", "NUL")
}

func TestEnvironment(t *testing.T) {
	in := testInput()
	in.Image.Env = []string{"PATH=/image", "A=1", "NOVALUE", "=x", "A=2", "HOSTNAME=image"}
	in.Config.Tty = true
	in.Config.Envs = []*runtimeapi.KeyValue{
		{Key: "RAW", Value: []byte("\xff\xfe = \n")},
		{Key: "TERM", Value: []byte("vt100")},
		{Key: "B", Value: nil},
		{Key: "B", Value: []byte("last")},
	}
	got, err := environment(in, "/home/web")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "env", got, []string{"PATH=/image", "HOSTNAME=image", "TERM=vt100", "HOME=/home/web",
		"A=2", "RAW=\xff\xfe = \n", "B=last"})

	in.Image.Env = []string{"A=\x00"}
	_, err = environment(in, "/")
	wantInvalid(t, err, "environment entry 0 of the image", "NUL")

	in.Image.Env, in.Config.Envs, in.Defaults.Path, in.Config.Tty = nil, nil, "", false
	got, _ = environment(in, "/")
	equal(t, "env", got, []string{"HOSTNAME=web", "HOME=/"})
}

// TestEnvironmentIsLinear keeps an image's own size from costing its square.
func TestEnvironmentIsLinear(t *testing.T) {
	in := testInput()
	for i := range 300000 {
		in.Image.Env = append(in.Image.Env, fmt.Sprintf("V%d=", i))
	}
	begin := time.Now()
	if _, err := environment(in, "/"); err != nil {
		t.Fatal(err)
	}
	// Linear takes some 50 ms here, quadratic minutes.
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("300000 variables took %v", took)
	}
}

func TestWorkingDir(t *testing.T) {
	for _, c := range []struct{ request, image, want string }{
		{"", "", "/"},
		{"", "/srv/app/", "/srv/app"},
		{"/tmp/../x", "/srv", "/x"},
	} {
		got, err := workingDir(&runtimeapi.ContainerConfig{WorkingDir: c.request}, ocispec.ImageConfig{WorkingDir: c.image})
		if err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	_, err := workingDir(&runtimeapi.ContainerConfig{WorkingDir: "x"}, ocispec.ImageConfig{})
	wantInvalid(t, err, "working_dir", `"x"`, "absolute")
	_, err = workingDir(&runtimeapi.ContainerConfig{}, ocispec.ImageConfig{WorkingDir: "../x"})
	wantInvalid(t, err, "image's WORKDIR", "absolute")
	_, err = workingDir(&runtimeapi.ContainerConfig{WorkingDir: "/a\x00"}, ocispec.ImageConfig{})
	wantInvalid(t, err, "working_dir")
}

func TestRlimits(t *testing.T) {
	core := specs.POSIXRlimit{Type: "RLIMIT_CORE", Soft: 10, Hard: 20}
	nofile := specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 5, Hard: 6}
	equal(t, "without nofile", rlimits([]specs.POSIXRlimit{core}, nil), []specs.POSIXRlimit{core, defaultNofile})
	equal(t, "with nofile", rlimits([]specs.POSIXRlimit{nofile}, nil), []specs.POSIXRlimit{nofile})
	equal(t, "below the daemon's hard limit", rlimits([]specs.POSIXRlimit{core, nofile}, map[string]uint64{"RLIMIT_CORE": 7}),
		[]specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 7, Hard: 7}, nofile})
}

func TestOOMScoreAdj(t *testing.T) {
	for _, c := range []struct{ asked, lowest, want int }{{0, -1000, 0}, {-998, -1000, -998}, {-998, 100, 100}, {900, 100, 900}} {
		s := mustContainer(t, func(in *Input) {
			in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: int64(c.asked)}
			in.Host.MinOOMScoreAdj = c.lowest
		})
		equal(t, "oom_score_adj", *s.Process.OOMScoreAdj, c.want)
	}
}

func TestCapabilities(t *testing.T) {
	without := func(list []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(c string) bool { return slices.Contains(drop, c) })
	}
	for _, c := range []struct {
		name           string
		req            *runtimeapi.Capability
		want, ambient  []string
		privileged     bool
		hostHasNothing bool
	}{
		{name: "default", want: defaultCapabilities},
		{name: "add, any spelling", req: &runtimeapi.Capability{AddCapabilities: []string{"net_admin", "CAP_CHOWN", "Cap_Sys_Time"}},
			want: append(slices.Clone(defaultCapabilities), "CAP_NET_ADMIN", "CAP_SYS_TIME")},
		{name: "drop", req: &runtimeapi.Capability{DropCapabilities: []string{"MKNOD", "CAP_SYS_ADMIN"}}, want: without(defaultCapabilities, "CAP_MKNOD")},
		{name: "drop wins over add", req: &runtimeapi.Capability{AddCapabilities: []string{"MKNOD"}, DropCapabilities: []string{"MKNOD"}},
			want: without(defaultCapabilities, "CAP_MKNOD")},
		{name: "drop all", req: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}},
		{name: "drop all, add one", req: &runtimeapi.Capability{AddCapabilities: []string{"KILL"}, DropCapabilities: []string{"all"}}, want: []string{"CAP_KILL"}},
		{name: "add all", req: &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}, want: capabilityNames},
		{name: "add all, drop one", req: &runtimeapi.Capability{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"BPF"}}, want: without(capabilityNames, "CAP_BPF")},
		{name: "add all, drop all, add one", req: &runtimeapi.Capability{AddCapabilities: []string{"ALL", "KILL"}, DropCapabilities: []string{"ALL"}}, want: []string{"CAP_KILL"}},
		{name: "ambient", req: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_RAW"}}, want: []string{"CAP_NET_RAW"}, ambient: []string{"CAP_NET_RAW"}},
		{name: "ambient all", req: &runtimeapi.Capability{AddAmbientCapabilities: []string{"ALL"}}, want: capabilityNames, ambient: capabilityNames},
		{name: "privileged", privileged: true, req: &runtimeapi.Capability{DropCapabilities: []string{"ALL", "KILL"}}, want: capabilityNames},
		{name: "the host has none", privileged: true, hostHasNothing: true, req: &runtimeapi.Capability{AddAmbientCapabilities: []string{"ALL"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustContainer(t, func(in *Input) {
				in.sc().Capabilities = c.req
				in.sc().Privileged = c.privileged
				if c.hostHasNothing {
					in.Host.Capabilities = nil
				}
			}).Process.Capabilities
			equal(t, "bounding", sorted(p.Bounding), sorted(c.want))
			equal(t, "effective", p.Effective, p.Bounding)
			equal(t, "permitted", p.Permitted, p.Bounding)
			equal(t, "ambient", p.Ambient, c.ambient)
			equal(t, "inheritable", p.Inheritable, c.ambient)
		})
	}
}

func TestCapabilitiesRefused(t *testing.T) {
	for _, c := range []struct {
		req  *runtimeapi.Capability
		says []string
	}{
		{&runtimeapi.Capability{AddCapabilities: []string{"KILL", "FLY"}}, []string{"add_capabilities[1]", `"FLY"`}},
		{&runtimeapi.Capability{DropCapabilities: []string{""}}, []string{"drop_capabilities[0]"}},
		{&runtimeapi.Capability{AddAmbientCapabilities: []string{"CAP_ALL"}}, []string{"add_ambient_capabilities[0]"}},
		{&runtimeapi.Capability{AddAmbientCapabilities: []string{"KILL"}, DropCapabilities: []string{"KILL"}}, []string{"CAP_KILL", "both"}},
	} {
		in := testInput()
		in.sc().Capabilities = c.req
		_, err := Container(in)
		wantInvalid(t, err, c.says...)
	}
}

// TestCapabilityNumbers compares the table with the kernel's header.
func TestCapabilityNumbers(t *testing.T) {
	for name, want := range map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
		"CAP_SETFCAP": unix.CAP_SETFCAP, "CAP_SYSLOG": unix.CAP_SYSLOG, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	} {
		if got, ok := CapabilityNumber(name); got != want || !ok {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	equal(t, "number of capabilities", len(capabilityNames), unix.CAP_LAST_CAP+1)
	equal(t, "default mask", CapabilityNames(0xa80425fb), defaultCapabilities)
	equal(t, "unknown bits", CapabilityNames(1<<63|1), []string{"CAP_CHOWN"})
	if _, ok := CapabilityNumber("CAP_FLY"); ok {
		t.Error("CAP_FLY is known")
	}
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// TestContainerRefuses holds that what the image decides stops the whole spec.
func TestContainerRefuses(t *testing.T) {
	for _, c := range []struct {
		change func(*Input)
		says   string
	}{
		{func(in *Input) { in.Config.Command = nil }, "ENTRYPOINT"},
		{func(in *Input) { in.Image.User = "nobody" }, `"nobody"`},
		{func(in *Input) { in.Image.Env = []string{"A=\x00"} }, "NUL"},
		{func(in *Input) { in.Image.WorkingDir = "x" }, "WORKDIR"},
	} {
		in := testInput()
		c.change(&in)
		s, err := Container(in)
		wantInvalid(t, err, c.says)
		if s != nil {
			t.Error("a spec beside an error")
		}
	}
}

func BenchmarkContainer(b *testing.B) {
	in := testInput()
	in.sc().Seccomp = &runtimeapi.SecurityProfile{}
	in.Passwd, in.Group = []byte(testPasswd), []byte(testGroup)
	for b.Loop() {
		if _, err := Container(in); err != nil {
			b.Fatal(err)
		}
	}
}
