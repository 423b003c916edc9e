//go:debug containermaxprocs=0

// Command probe prints its own state as JSON: what a process in a container
// starts with, seen from inside. Package state describes the output.
//
// It is a Go program and looks at itself, so two things must not be its own:
// what the runtime changes before main is read by the entry point in entry_*.s,
// and containermaxprocs=0 keeps the runtime from holding cgroup files open.
package main

import (
	"encoding/json"
	"os"

	"github.com/cri-box/cri-box/test/probe/state"
	"golang.org/x/sys/unix"
)

func main() {
	files := openFiles() // first: everything below opens some
	if captured == 0 {
		fail("built without -ldflags=-E=probe_entry")
	}
	st := readStatus()
	s := state.State{
		Argv:       os.Args,
		Env:        os.Environ(),
		Cwd:        cwd(),
		Files:      files,
		IDs:        st.ids(),
		Caps:       st.caps(),
		Limits:     limits(),
		Signals:    st.signals(),
		Session:    session(),
		Sched:      sched(st),
		Security:   security(st),
		Namespaces: namespaces(),
		View:       view(st),
		Mounts:     mounts(),
		Dev:        devices(),
	}
	out, err := json.Marshal(s)
	if err != nil {
		fail(err.Error())
	}
	os.Stdout.Write(append(out, '\n'))
}

func fail(text string) {
	os.Stderr.WriteString("probe: " + text + "\n")
	os.Exit(125)
}

// cwd asks the kernel; os.Getwd would believe $PWD.
func cwd() string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	if err != nil || n < 1 {
		return ""
	}
	return string(buf[:n-1])
}
