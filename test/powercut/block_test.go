package powercut_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// blockPoints is how many cuts of a block device are tried.
const blockPoints = 50

// A blockWrite is an entry of the log that the kernel's dm-log-writes target keeps:
// what has reached a block device, in which order (dm-log-writes.c).
type blockWrite struct {
	offset int64
	data   []byte
	flush  bool // all before it is on disk
	fua    bool // it is on disk itself
	mark   string
}

// readLog reads the log device.
func readLog(path string) (list []blockWrite, err error) {
	const magic, flush, fua, discard, marked = 0x6a736677736872, 1 << 0, 1 << 1, 1 << 2, 1 << 3
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	le, head := binary.LittleEndian, make([]byte, 4096)
	if _, err := f.ReadAt(head[:512], 0); err != nil {
		return nil, err
	}
	entries, size := le.Uint64(head[16:]), int64(le.Uint32(head[24:]))
	if le.Uint64(head) != magic || size < 512 || size > 4096 {
		return nil, fmt.Errorf("%s is no log of dm-log-writes", path)
	}
	at := size
	for range entries {
		if _, err := f.ReadAt(head[:size], at); err != nil {
			return nil, err
		}
		flags, sectors := le.Uint64(head[16:]), int64(le.Uint64(head[8:]))
		w := blockWrite{offset: int64(le.Uint64(head)) * size, flush: flags&flush != 0, fua: flags&fua != 0}
		if flags&marked != 0 {
			w.mark = strings.TrimPrefix(string(head[32:32+min(le.Uint64(head[24:]), 256)]), "=")
		}
		at += size
		if flags&discard == 0 && sectors > 0 {
			w.data = make([]byte, sectors*size)
			if _, err := f.ReadAt(w.data, at); err != nil {
				return nil, err
			}
			at += sectors * size
		}
		list = append(list, w)
	}
	return list, nil
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1") // nobody else makes the nodes
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// loop makes a block device of a file.
func loop(t *testing.T, path string, size int64) (device string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	device = run(t, "losetup", "--find", "--show", path)
	t.Cleanup(func() { exec.Command("losetup", "--detach", device).Run() })
	return device
}

// TestBlockCut: the same on a disk with a file system, whose power is cut between
// two writes of its blocks, some of which since the last flush are lost.
func TestBlockCut(t *testing.T) {
	if err := exec.Command("modprobe", "-a", "dm-log-writes", "loop").Run(); err != nil && os.Getenv("CRIBOX_BIN") == "" {
		t.Skip("this kernel has no dm-log-writes; make test-vm-all has one")
	}
	dir, err := os.MkdirTemp("/dev/shm", "powercut")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	all := images()
	log := loggedLife(t, dir, serveImages(t, all))
	begin := 0
	for log[begin].mark != "begin" {
		begin++
	}
	r, seed := chance()
	whole, base := wholeLayers(t, all), filepath.Join(dir, "base")
	disk, err := os.OpenFile(base, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := disk.Truncate(blockSize); err != nil {
		t.Fatal(err)
	}
	lost, flushed := 0, 0 // before flushed, everything is in disk
	for point := range blockPoints {
		at := begin + 1 + (len(log)-begin-1)*point/(blockPoints-1)
		for n := flushed; n < at; n++ {
			if log[n].flush {
				put(t, disk, log[flushed:n+1])
				flushed = n + 1
			}
		}
		c := &cut{listed: map[string]bool{}}
		for _, w := range log[begin+1 : at] {
			if w.mark != "" {
				c.hear(w.mark)
			}
		}
		var rest []blockWrite
		keep := []float64{0, 0.5, 1}[point%3]
		for _, w := range log[flushed:at] {
			if w.fua || r.Float64() < keep {
				rest = append(rest, w)
			} else {
				lost++
			}
		}
		if err := c.startOn(t, dir, base, rest, whole); err != nil {
			t.Fatalf("seed %d: a cut after %d of %d writes: %v", seed, at, len(log), err)
		}
	}
	t.Logf("%d writes of blocks recorded, %d cuts, %d writes lost in them", len(log)-begin, blockPoints, lost)
}

// blockSize is the disk's, in bytes.
const blockSize = 32 << 20

// loggedLife has images live on an ext4 file system and returns what reached its
// disk.
func loggedLife(t *testing.T, dir, host string) []blockWrite {
	t.Helper()
	data, log := loop(t, filepath.Join(dir, "data"), blockSize), loop(t, filepath.Join(dir, "log"), 16*blockSize)
	name := fmt.Sprint("powercut-", os.Getpid())
	run(t, "dmsetup", "create", name, "--table", fmt.Sprintf("0 %d log-writes %s %s", blockSize/512, data, log))
	there := true
	t.Cleanup(func() {
		if there {
			exec.Command("dmsetup", "remove", "--force", name).Run()
		}
	})
	device, mount := "/dev/mapper/"+name, filepath.Join(dir, "mount")
	run(t, "mkfs.ext4", "-q", device)
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(device, mount, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
	root := filepath.Join(mount, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	say := func(word string) error {
		run(t, "dmsetup", "message", name, "0", "mark", "="+word) // for it takes -a as an option
		return nil
	}
	say("begin")
	if err := live(host, root, say); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(mount, 0); err != nil {
		t.Fatal(err)
	}
	run(t, "dmsetup", "remove", name)
	there = false
	list, err := readLog(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func put(t *testing.T, disk *os.File, writes []blockWrite) {
	t.Helper()
	for _, w := range writes {
		if _, err := disk.WriteAt(w.data, w.offset); err != nil {
			t.Fatal(err)
		}
	}
}

// startOn starts the image service on a copy of a disk, with these writes.
func (c *cut) startOn(t *testing.T, dir, base string, writes []blockWrite, whole map[digest.Digest]map[string]string) error {
	t.Helper()
	path, mount := filepath.Join(dir, "cut"), filepath.Join(dir, "mount")
	from, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	device := loop(t, path, blockSize)
	to, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	put(t, to, writes)
	if err := unix.Mount(device, mount, "ext4", 0, ""); err != nil { // its journal is replayed
		t.Fatal(err)
	}
	err = c.start(filepath.Join(mount, "root"), whole)
	if err := unix.Unmount(mount, 0); err != nil {
		t.Fatal(err)
	}
	run(t, "losetup", "--detach", device)
	return err
}
