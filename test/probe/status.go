package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/cri-box/cri-box/test/probe/state"
)

// status is /proc/self/status by field.
type status map[string]string

func readStatus() status {
	st := status{}
	for _, line := range strings.Split(readText("/proc/self/status"), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			st[name] = strings.TrimSpace(value)
		}
	}
	return st
}

func (st status) int(field string) int { return atoi(st[field]) }

// ints reads a list of numbers.
func (st status) ints(field string) []int {
	list := []int{}
	for _, word := range strings.Fields(st[field]) {
		list = append(list, atoi(word))
	}
	return list
}

func (st status) four(field string) (ids [4]int) {
	copy(ids[:], st.ints(field))
	return ids
}

func (st status) ids() state.IDs {
	return state.IDs{UIDs: st.four("Uid"), GIDs: st.four("Gid"), Groups: st.ints("Groups")}
}

func (st status) caps() state.Caps {
	return state.Caps{
		Inheritable: st["CapInh"],
		Permitted:   st["CapPrm"],
		Effective:   st["CapEff"],
		Bounding:    st["CapBnd"],
		Ambient:     st["CapAmb"],
	}
}

// mask turns a signal mask in hex into numbers.
func (st status) mask(field string) []int {
	bits, _ := strconv.ParseUint(st[field], 16, 64)
	return numbers(bits)
}

// numbers lists the signals of a mask.
func numbers(bits uint64) []int {
	list := []int{}
	for i := range 64 {
		if bits&(1<<i) != 0 {
			list = append(list, i+1)
		}
	}
	return list
}

func (st status) signals() state.Signals {
	return state.Signals{Ignored: ignored(), Blocked: numbers(blocked), Pending: st.mask("ShdPnd")}
}

func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\x00\n")
}

func atoi(s string) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return -1
	}
	return n
}
