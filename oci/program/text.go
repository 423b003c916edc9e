package program

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// whyColumn is where the reasons begin, for calls that are not longer.
const whyColumn = 100

// cloneFlags are those that Clone may have.
var cloneFlags = []struct {
	flag uint64
	name string
}{
	{unix.CLONE_NEWNS, "CLONE_NEWNS"}, {unix.CLONE_NEWPID, "CLONE_NEWPID"}, {unix.CLONE_NEWNET, "CLONE_NEWNET"},
	{unix.CLONE_NEWIPC, "CLONE_NEWIPC"}, {unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
	{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"}, {unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
}

// Text shows the program to a person, one call per line, each with what it is
// for. Donated descriptors are <names>, registers $n. Of the environment only
// the names are shown, as its values are often secrets.
func (p *Program) Text() string {
	var b strings.Builder
	p.writeHeader(&b)
	names := tableOf(abis[p.Arch]).names
	for i := range p.Ops {
		line := p.opText(&p.Ops[i], names)
		fmt.Fprintf(&b, "%-*s  # %s\n", whyColumn, line, p.Ops[i].Why)
	}
	return b.String()
}

func (p *Program) writeHeader(b *strings.Builder) {
	fmt.Fprintf(b, "%s, %s\n", p.Name, p.Arch)
	var flags []string
	for _, f := range cloneFlags {
		if p.Clone&f.flag != 0 {
			flags = append(flags, f.name)
		}
	}
	memory := "the spawner's, which waits"
	switch {
	case p.Detached:
		memory = "a copy of the spawner's, which does not wait"
	case p.Fork:
		memory = "a copy of the spawner's, which waits"
	}
	field := func(name string, values ...string) {
		if len(values) > 0 {
			fmt.Fprintf(b, "  %-7s %s\n", name, strings.Join(values, " "))
		}
	}
	field("clone", flags...)
	if p.Cgroup != "" {
		field("cgroup", "<"+p.Cgroup+">")
	}
	field("memory", memory)
	var fds []string
	for _, name := range p.fds {
		fds = append(fds, "<"+name+">")
	}
	field("needs", fds...)
	field("argv", p.strings("argv", func(s string) string { return fmt.Sprintf("%q", s) })...)
	field("env", p.strings("env", func(s string) string {
		name, _, _ := strings.Cut(s, "=")
		return plain(name)
	})...)
	b.WriteByte('\n')
}

// strings gives the strings of the first array that is shown as text.
func (p *Program) strings(text string, show func(string) string) []string {
	addresses := map[uint64]bool{}
	for _, r := range p.relocs {
		addresses[uint64(r.at)] = true
	}
	var list []string
	for _, op := range p.Ops {
		for _, a := range op.Args {
			if a.kind != argData || a.text != text {
				continue
			}
			for at := a.value; addresses[at]; at += 8 {
				list = append(list, show(p.stringAt(binary.LittleEndian.Uint64(p.data[at:]))))
			}
			return list
		}
	}
	return nil
}

func (p *Program) stringAt(off uint64) string {
	s := p.data[off:]
	return string(s[:bytes.IndexByte(s, 0)])
}

func (p *Program) argText(a Arg) string {
	switch {
	case a.text != "":
		return a.text
	case a.kind == argReg:
		return fmt.Sprintf("$%d", a.value+1)
	case a.kind == argFD:
		return "<" + p.fds[a.value] + ">"
	case a.kind == argData:
		return fmt.Sprintf("%q", p.stringAt(a.value))
	}
	return fmt.Sprint(a.value)
}

func (p *Program) opText(op *Op, names map[int]string) string {
	var b strings.Builder
	switch {
	case op.If > 0:
		fmt.Fprintf(&b, "if $%d: ", op.If)
	case op.If < 0:
		fmt.Fprintf(&b, "if no $%d: ", -op.If)
	}
	switch {
	case op.Dst > 0 && op.Store.text != "":
		fmt.Fprintf(&b, "$%d, %s = ", op.Dst, op.Store.text)
	case op.Dst > 0:
		fmt.Fprintf(&b, "$%d = ", op.Dst)
	case op.Store.text != "":
		fmt.Fprintf(&b, "%s = ", op.Store.text)
	}
	b.WriteString(names[int(op.Nr)])
	n := len(op.Args)
	for n > 0 && op.Args[n-1] == (Arg{}) {
		n--
	}
	args := make([]string, n)
	for i := range args {
		args[i] = p.argText(op.Args[i])
	}
	fmt.Fprintf(&b, "(%s)", strings.Join(args, ", "))
	if op.Tolerate != 0 {
		b.WriteString(" or " + op.Tolerate.String())
	}
	if op.Leave {
		b.WriteString(", the parent leaves")
	}
	return b.String()
}

// String names the errors.
func (e Errnos) String() string {
	if e == anyErrno {
		return "any error"
	}
	var names []string
	for n := range 64 {
		if e&(1<<n) != 0 {
			names = append(names, unix.ErrnoName(syscall.Errno(n)))
		}
	}
	return strings.Join(names, "|")
}
