package spec

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSignalNumber(t *testing.T) {
	for name, want := range map[string]int{
		"SIGTERM": 15, "sigterm": 15, "TERM": 15, "15": 15, "SIGKILL": 9, "1": 1, "64": 64, "SIGIOT": 6, "SIGPOLL": 29, "SIGCLD": 17,
		"SIGRTMIN": 34, "RTMIN+3": 37, "SIGRTMIN+30": 64, "SIGRTMAX": 64, "SIGRTMAX-14": 50, "rtmax-30": 34, "SIGRTMIN+0": 34,
	} {
		if got, err := SignalNumber(name); got != want || err != nil {
			t.Errorf("%s is %d (%v), want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"", "0", "65", "-1", "+9", "SIG", "SIGFOO", "SIGSIGTERM", "SIGRTMIN+31", "SIGRTMAX-31", "SIGRTMIN-1", "SIGRTMIN+", "SIGRTMIN+ 1", "TERM\n", "99999999999999999999"} {
		_, err := SignalNumber(name)
		wantInvalid(t, err, "SIGTERM")
	}
}

// TestSignalTable compares the table with the kernel's header.
func TestSignalTable(t *testing.T) {
	for n := 1; n < 32; n++ {
		if got, err := SignalNumber(unix.SignalName(unix.Signal(n))); got != n {
			t.Errorf("%s is %d (%v), want %d", unix.SignalName(unix.Signal(n)), got, err, n)
		}
	}
}

// TestCRISignals holds every value of CRI, and that numbers go back to a name of
// the same signal.
func TestCRISignals(t *testing.T) {
	seen := map[int]bool{}
	for s := runtimeapi.Signal_SIGNAL_SIGABRT; int(s) < len(runtimeapi.Signal_name); s++ {
		n, err := criSignalNumber(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		seen[n] = true
		if back, _ := criSignalNumber(criSignal(n)); back != n {
			t.Errorf("%s is %d and goes back to %s", s, n, criSignal(n))
		}
	}
	for n := 1; n <= sigRTMax; n++ {
		if seen[n] == (n == 32 || n == 33) {
			t.Errorf("signal %d: named by CRI is %v", n, seen[n])
		}
	}
}

func TestStopSignal(t *testing.T) {
	for _, c := range []struct {
		name  string
		req   runtimeapi.Signal
		image string
		want  int
		cri   runtimeapi.Signal
	}{
		{"nothing", 0, "", 15, runtimeapi.Signal_SIGNAL_SIGTERM},
		{"image", 0, "SIGQUIT", 3, runtimeapi.Signal_SIGNAL_SIGQUIT},
		{"image number", 0, "37", 37, runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3},
		{"image number without a name", 0, "33", 33, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT},
		{"image alias", 0, "SIGCLD", 17, runtimeapi.Signal_SIGNAL_SIGCHLD},
		{"request over image", runtimeapi.Signal_SIGNAL_SIGUSR1, "nonsense", 10, runtimeapi.Signal_SIGNAL_SIGUSR1},
		{"request alias", runtimeapi.Signal_SIGNAL_SIGCLD, "", 17, runtimeapi.Signal_SIGNAL_SIGCLD},
		{"request real-time", runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14, "", 50, runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, cri, err := StopSignal(&runtimeapi.ContainerConfig{StopSignal: c.req}, ocispec.ImageConfig{StopSignal: c.image})
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "number", n, c.want)
			equal(t, "name", cri, c.cri)
		})
	}
	_, _, err := StopSignal(nil, ocispec.ImageConfig{StopSignal: "SIGFOO"})
	wantInvalid(t, err, "image", `"SIGFOO"`)
	_, _, err = StopSignal(&runtimeapi.ContainerConfig{StopSignal: 66}, ocispec.ImageConfig{})
	wantInvalid(t, err, "stop_signal 66")
}
