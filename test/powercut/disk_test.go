package powercut_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

type opKind int

const (
	opCreate   opKind = iota // name in dir is the new file ino
	opMkdir                  // name in dir is the new directory ino
	opSymlink                // name in dir is the new link ino, to data
	opLink                   // name in dir is ino too
	opRename                 // name in dir moves to newName in newDir
	opUnlink                 // name in dir is gone
	opWrite                  // data at offset of ino
	opTruncate               // ino is offset bytes long
	opSync                   // all before of ino is on disk: its data, or its names if it is a directory
	opSyncAll                // all before is on disk
	opMark                   // the program says name
)

// An op is one change; files and directories are numbers, so that it can be
// made although others before it were lost.
type op struct {
	kind        opKind
	dir, newDir int
	name        string
	newName     string
	ino         int
	offset      int64
	data        []byte
	mode        os.FileMode // of a new file
}

// String tells an op for a failing test.
func (o op) String() string {
	kinds := [...]string{"create", "mkdir", "symlink", "link", "rename", "unlink", "write", "truncate", "sync", "sync all", "mark"}
	return fmt.Sprintf("%s dir %d %s ino %d → dir %d %s, offset %d, %d bytes", kinds[o.kind], o.dir, o.name, o.ino, o.newDir, o.newName, o.offset, len(o.data))
}

type inode struct {
	entries map[string]int // of a directory
	data    []byte
	mode    os.FileMode
	target  string // of a symbolic link
}

// A disk is a file system in memory. Number 1 is its root.
type disk struct {
	inodes map[int]*inode
	next   int
}

func newDisk() *disk {
	return &disk{inodes: map[int]*inode{1: {entries: map[string]int{}}}, next: 2}
}

// find resolves a path; 0 is nothing.
func (d *disk) find(p string) int {
	if p == "" {
		return 0
	}
	at := 1
	for _, name := range strings.Split(path.Clean(p), "/") {
		if name == "." {
			continue
		}
		n := d.inodes[at]
		if n == nil || n.entries == nil {
			return 0
		}
		at = n.entries[name]
	}
	return at
}

// place is the directory of a path, and its last name.
func (d *disk) place(p string) (dir int, name string, ok bool) {
	if p == "" || p == "." {
		return 0, "", false
	}
	dir = d.find(path.Dir(p))
	return dir, path.Base(p), dir != 0
}

func (d *disk) number() int { d.next++; return d.next - 1 }

func (d *disk) create(p string, empty bool, mode os.FileMode) (op, bool) {
	dir, name, ok := d.place(p)
	if ino := d.find(p); ino != 0 {
		return op{kind: opTruncate, ino: ino}, empty
	}
	if !ok {
		return op{}, false
	}
	return op{kind: opCreate, dir: dir, name: name, ino: d.number(), mode: mode}, true
}

func (d *disk) mkdir(p string) (op, bool) {
	dir, name, ok := d.place(p)
	if !ok || d.find(p) != 0 {
		return op{}, false
	}
	return op{kind: opMkdir, dir: dir, name: name, ino: d.number()}, true
}

func (d *disk) symlink(target, p string) (op, bool) {
	dir, name, ok := d.place(p)
	if !ok || d.find(p) != 0 {
		return op{}, false
	}
	return op{kind: opSymlink, dir: dir, name: name, ino: d.number(), data: []byte(target)}, true
}

func (d *disk) link(from, to string) (op, bool) {
	dir, name, ok := d.place(to)
	ino := d.find(from)
	return op{kind: opLink, dir: dir, name: name, ino: ino}, ok && ino != 0 && d.find(to) == 0
}

func (d *disk) rename(from, to string) (op, bool) {
	dir, name, ok := d.place(from)
	newDir, newName, ok2 := d.place(to)
	return op{kind: opRename, dir: dir, name: name, newDir: newDir, newName: newName, ino: d.find(from)}, ok && ok2 && d.find(from) != 0
}

func (d *disk) unlink(p string) (op, bool) {
	dir, name, ok := d.place(p)
	ino := d.find(p)
	if n := d.inodes[ino]; n != nil && len(n.entries) > 0 {
		return op{}, false // os.RemoveAll tries a directory as it is first
	}
	return op{kind: opUnlink, dir: dir, name: name, ino: ino}, ok && ino != 0
}

func (d *disk) write(p string, offset int64, data []byte) (op, bool) {
	ino := d.find(p)
	return op{kind: opWrite, ino: ino, offset: offset, data: data}, ino != 0
}

func (d *disk) truncate(p string, size int64) (op, bool) {
	ino := d.find(p)
	return op{kind: opTruncate, ino: ino, offset: size}, ino != 0
}

func (d *disk) sync(p string) (op, bool) {
	ino := d.find(p)
	return op{kind: opSync, ino: ino}, ino != 0
}

// apply makes a change. One that needs what was lost before it is lost too.
func (d *disk) apply(o op) {
	dir := d.inodes[o.dir]
	switch o.kind {
	case opCreate, opMkdir, opSymlink:
		n := &inode{mode: o.mode}
		if o.kind == opMkdir {
			n.entries = map[string]int{}
		}
		if o.kind == opSymlink {
			n.target = string(o.data)
		}
		d.inodes[o.ino] = n
		if dir != nil {
			dir.entries[o.name] = o.ino
		}
	case opLink:
		if dir != nil && d.inodes[o.ino] != nil {
			dir.entries[o.name] = o.ino
		}
	case opRename:
		to := d.inodes[o.newDir]
		if to == nil || d.inodes[o.ino] == nil {
			return
		}
		if dir != nil && dir.entries[o.name] == o.ino {
			delete(dir.entries, o.name)
		}
		to.entries[o.newName] = o.ino
	case opUnlink:
		if dir != nil && dir.entries[o.name] == o.ino {
			delete(dir.entries, o.name)
		}
	case opWrite:
		if n := d.inodes[o.ino]; n != nil {
			if end := o.offset + int64(len(o.data)); int64(len(n.data)) < end {
				n.data = append(n.data, make([]byte, end-int64(len(n.data)))...)
			}
			copy(n.data[o.offset:], o.data)
		}
	case opTruncate:
		if n := d.inodes[o.ino]; n != nil {
			if more := o.offset - int64(len(n.data)); more > 0 {
				n.data = append(n.data, make([]byte, more)...)
			}
			n.data = n.data[:o.offset:o.offset]
		}
	}
}

// names says whether an op changes a directory, and which ones.
func (o op) dirs() []int {
	switch o.kind {
	case opCreate, opMkdir, opSymlink, opLink, opUnlink:
		return []int{o.dir}
	case opRename:
		return []int{o.dir, o.newDir}
	}
	return nil
}

// synced says, of each op, whether the ops after it put it on disk.
func synced(ops []op) []bool {
	on := make([]bool, len(ops))
	after := map[int]bool{}
	all := false
	for i := len(ops) - 1; i >= 0; i-- {
		switch o := ops[i]; o.kind {
		case opSync:
			after[o.ino] = true
		case opSyncAll:
			all = true
		case opWrite, opTruncate:
			on[i] = all || after[o.ino]
		default:
			// A rename is on disk when one of its directories is: it is one change.
			on[i] = all || slices.ContainsFunc(o.dirs(), func(dir int) bool { return after[dir] })
		}
	}
	return on
}

// put makes the files of a disk below dir.
func (d *disk) put(dir string) error {
	made := map[int]string{}
	return d.putDir(1, dir, made)
}

func (d *disk) putDir(ino int, at string, made map[int]string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	for name, child := range d.inodes[ino].entries {
		n, p := d.inodes[child], filepath.Join(at, name)
		var err error
		switch {
		case n == nil:
			continue
		case n.entries != nil:
			err = d.putDir(child, p, made)
		case n.target != "":
			err = os.Symlink(n.target, p)
		case made[child] != "":
			err = unix.Link(made[child], p)
		default:
			made[child] = p
			err = os.WriteFile(p, n.data, n.mode|0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
