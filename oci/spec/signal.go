package spec

import (
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The C libraries keep the kernel's real-time signals 32 and 33 to themselves;
// Dockerfiles count from glibc's SIGRTMIN (signal(7)).
const (
	sigTerm  = 15
	sigRTMin = 34
	sigRTMax = 64
)

// signalNumbers is the same table on amd64 and arm64 (asm-generic/signal.h).
var signalNumbers = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7,
	"FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14,
	"TERM": sigTerm, "STKFLT": 16, "CHLD": 17, "CLD": 17, "CONT": 18, "STOP": 19,
	"TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25,
	"VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "POLL": 29, "PWR": 30, "SYS": 31,
	"RTMIN": sigRTMin, "RTMAX": sigRTMax,
}

// SignalNumber turns a name (SIGTERM, term, SIGRTMIN+3, RTMAX-1) or a number from
// 1 to 64 into a signal's number. Anything else is ErrInvalid.
func SignalNumber(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil && n >= 1 && n <= sigRTMax {
		return int(n), nil
	}
	upper := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if n, known := signalNumbers[upper]; known {
		return n, nil
	}
	if n, ok := realTime(upper); ok {
		return n, nil
	}
	return 0, invalid("%q is no signal; a name such as SIGTERM or SIGRTMIN+3 is, or a number from 1 to %d", name, sigRTMax)
}

func realTime(name string) (int, bool) {
	base, sign := sigRTMin, 1
	offset, found := strings.CutPrefix(name, "RTMIN+")
	if !found {
		base, sign = sigRTMax, -1
		if offset, found = strings.CutPrefix(name, "RTMAX-"); !found {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(offset, 10, 8)
	number := base + sign*int(n)
	return number, err == nil && number >= sigRTMin && number <= sigRTMax
}

// StopSignal returns the signal that asks a container to end, as a number and as
// ContainerStatus shows it: the request's stop_signal, else the image's, else
// SIGTERM. A number that CRI has no name for shows as SIGNAL_RUNTIME_DEFAULT.
func StopSignal(c *runtimeapi.ContainerConfig, image ocispec.ImageConfig) (int, runtimeapi.Signal, error) {
	if s := c.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		n, err := criSignalNumber(s)
		return n, s, err
	}
	if image.StopSignal == "" {
		return sigTerm, criSignal(sigTerm), nil
	}
	n, err := SignalNumber(image.StopSignal)
	if err != nil {
		return 0, 0, invalid("the image's StopSignal: %s", strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
	}
	return n, criSignal(n), nil
}

// criSignalNumber reads the number out of CRI's name: SIGNAL_SIGRTMINPLUS3.
func criSignalNumber(s runtimeapi.Signal) (int, error) {
	name, known := runtimeapi.Signal_name[int32(s)]
	if !known || s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return 0, invalid("stop_signal %d is no signal of CRI", s)
	}
	name = strings.TrimPrefix(name, "SIGNAL_")
	name = strings.Replace(name, "PLUS", "+", 1)
	name = strings.Replace(name, "MINUS", "-", 1)
	return SignalNumber(name)
}

// criSignal is the first of CRI's names for n: SIGNAL_SIGCHLD, not SIGCLD.
func criSignal(n int) runtimeapi.Signal {
	for s := runtimeapi.Signal_SIGNAL_SIGABRT; s <= runtimeapi.Signal_SIGNAL_SIGRTMAX; s++ {
		if number, err := criSignalNumber(s); err == nil && number == n {
			return s
		}
	}
	return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
}
