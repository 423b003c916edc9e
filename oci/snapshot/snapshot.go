// Package snapshot keeps image layers on disk, each unpacked once and for
// itself: one directory per diffID, shared by all images that contain it. The
// kernel's overlay file system stacks them.
//
//	<dir>/layers/<algorithm>-<hex>/fs          the layer's files
//	<dir>/layers/<algorithm>-<hex>/layer.json  its record: what was counted
//	<dir>/layers/quarantine/   layers with a record that cannot be used
//	<dir>/incoming/<random>/                   layers that are being unpacked
//	<dir>/trash/<random>/                      layers that are being deleted
//
// A layer is unpacked into incoming, its digest is compared, its file system is
// synced, its record is written and synced, and only then it is renamed into
// layers. So what is in layers and has a record is whole, also after a power
// cut; everything else is deleted by Open.
//
// Tar archives are a stranger's data. They are unpacked by descriptors alone
// (openat2(2) with RESOLVE_IN_ROOT below the layer's own root, *at calls on the
// parent's descriptor), by our own code over archive/tar: containerd's
// pkg/archive and moby's go-archive both resolve names to path strings first
// and rely on a chroot or on nobody changing the tree meanwhile, and both
// unpack over the parent layers' mount, which this package does not have.
package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	layersDir   = "layers"
	incomingDir = "incoming"
	trashDir    = "trash"
	filesDir    = "fs"
	recordFile  = "layer.json"

	quarantineDir = "quarantine"
	whyFile       = "why" // in what is there: what is wrong with it
)

// recordLimit bounds a layer's record when it is read back, in bytes.
const recordLimit = 64 << 10

// Info is what was counted while a layer was unpacked.
type Info struct {
	// Size is the sum of the regular files' sizes in bytes. It depends on the
	// layer alone, not on the file system.
	Size int64 `json:"size"`
	// Disk is the space taken on disk in bytes, in whole blocks.
	Disk int64 `json:"disk"`
	// Inodes is the number of inodes taken.
	Inodes int64 `json:"inodes"`
	// Opaque says that the layer's root hides everything below it. Overlay does
	// not look at this on a lower layer's root: whoever stacks layers ends the
	// stack here.
	Opaque bool `json:"opaque,omitempty"`
}

// record is layer.json.
type record struct {
	Version int           `json:"version"`
	DiffID  digest.Digest `json:"diffID"`
	Info
}

const recordVersion = 1

// Store is the layers below one directory. Its methods may be called from
// several goroutines. It starts a goroutine only while a sync is under way.
type Store struct {
	dir     string
	publish sync.Mutex // one rename into layers at a time
	syncs   *groupSync

	mu     sync.Mutex // guards what follows
	layers map[digest.Digest]Info
	bytes  uint64
	inodes uint64
}

// Open reads the layers below dir, which is made if it is missing, and deletes
// what has no valid record. One process at a time may have a directory open;
// its owner sees to that. The Store holds one descriptor until Close.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, layers: map[digest.Digest]Info{}}
	for _, sub := range []string{layersDir, incomingDir, trashDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("cannot make layer directory: %w", err)
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	for _, sub := range []string{incomingDir, trashDir} {
		if err := empty(filepath.Join(dir, sub)); err != nil {
			return nil, err
		}
	}
	syncs, err := newGroupSync(dir)
	if err != nil {
		return nil, err
	}
	s.syncs = syncs
	return s, nil
}

// Close ends the use of the store. No call may be under way.
func (s *Store) Close() error { return s.syncs.close() }

// load reads every record and moves what has none to the trash.
func (s *Store) load() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, layersDir))
	if err != nil {
		return fmt.Errorf("cannot list layers: %w", err)
	}
	for _, e := range entries {
		if e.Name() == quarantineDir {
			continue
		}
		rec, err := readRecord(filepath.Join(s.dir, layersDir, e.Name()))
		if err == nil && dirName(rec.DiffID) != e.Name() {
			err = errPlace
		}
		switch {
		case err == nil:
			s.add(rec.DiffID, rec.Info)
			continue
		case errors.Is(err, fs.ErrNotExist):
			err = os.Rename(filepath.Join(s.dir, layersDir, e.Name()), filepath.Join(s.dir, trashDir, e.Name()))
		default:
			err = s.setAside(e.Name(), err)
		}
		if err != nil {
			return fmt.Errorf("cannot discard layer %s without a record: %w", e.Name(), err)
		}
	}
	return nil
}

var errPlace = errors.New("it is the record of another layer")

// setAside moves a layer with a record that cannot be used out of the way: a
// container may run from its files, which are the same wherever they are.
func (s *Store) setAside(name string, why error) error {
	place := filepath.Join(s.dir, layersDir, quarantineDir)
	if err := os.MkdirAll(place, 0o700); err != nil {
		return err
	}
	to := filepath.Join(place, name)
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, layersDir, name), to); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, whyFile), []byte(why.Error()+"\n"), 0o600)
}

// add counts a layer. The caller holds mu or is Open.
func (s *Store) add(id digest.Digest, info Info) {
	s.layers[id] = info
	s.bytes += uint64(info.Disk)
	s.inodes += uint64(info.Inodes)
}

// Layer returns the directory that holds the files of a layer, and whether the
// layer is there, whole and synced.
func (s *Store) Layer(diffID digest.Digest) (path string, ok bool) {
	_, ok = s.Info(diffID)
	return s.path(diffID, filesDir), ok
}

// Info returns what was counted for a layer, and whether it is there.
func (s *Store) Info(diffID digest.Digest) (Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.layers[diffID]
	return info, ok
}

// Layers returns the diffIDs of all layers, sorted.
func (s *Store) Layers() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]digest.Digest, 0, len(s.layers))
	for id := range s.layers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Usage returns the space that all layers take, in bytes and inodes: a sum that
// is kept, not a walk.
func (s *Store) Usage() (bytes, inodes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes, s.inodes
}

// Unpack is Write and Commit in one.
func (s *Store) Unpack(ctx context.Context, diffID digest.Digest, r io.Reader, limits Limits) (Info, error) {
	staged, err := s.Write(ctx, diffID, r, limits)
	if err != nil {
		return Info{}, err
	}
	return staged.Commit(ctx)
}

// Staged is a layer whose files are written and whose digest matched. It is not
// reachable yet. Its owner calls Commit or Discard, once.
type Staged struct {
	store  *Store
	diffID digest.Digest
	dir    string // "" when the layer was there already
	info   Info
	failed int // syncs before it was written
}

// Write unpacks an uncompressed tar archive as the layer diffID. r is read to
// its end, by another goroutine that has ended when Write returns, and is not
// closed; reads must end when ctx does. If the layer is there already, r is not
// read.
func (s *Store) Write(ctx context.Context, diffID digest.Digest, r io.Reader, limits Limits) (*Staged, error) {
	if err := diffID.Validate(); err != nil {
		return nil, fmt.Errorf("cannot unpack layer: invalid diffID %.100q: %w", string(diffID), err)
	}
	if info, ok := s.Info(diffID); ok {
		return &Staged{store: s, diffID: diffID, info: info}, nil
	}
	failed := s.syncs.failures()
	dir, err := os.MkdirTemp(filepath.Join(s.dir, incomingDir), "")
	if err != nil {
		return nil, fmt.Errorf("cannot make directory for layer %s: %w", diffID, err)
	}
	info, err := unpack(ctx, filepath.Join(dir, filesDir), diffID, r, limits)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot unpack layer %s: %w", diffID, err), os.RemoveAll(dir))
	}
	return &Staged{s, diffID, dir, info, failed}, nil
}

// Discard deletes what was written.
func (l *Staged) Discard() error {
	if l.dir == "" {
		return nil
	}
	return os.RemoveAll(l.dir)
}

// Commit syncs the layer and makes it reachable, and returns what it holds. It
// waits for the disk no longer than ctx. On failure nothing is left.
func (l *Staged) Commit(ctx context.Context) (Info, error) {
	if l.dir == "" {
		return l.info, nil
	}
	defer os.RemoveAll(l.dir)
	if err := l.store.syncs.wait(ctx); err != nil {
		return Info{}, fmt.Errorf("cannot sync layer %s: %w", l.diffID, err)
	}
	if l.store.syncs.failures() != l.failed {
		return Info{}, fmt.Errorf("cannot sync layer %s: the disk could not write something of it or beside it: %w", l.diffID, unix.EIO)
	}
	if err := writeRecord(l.dir, record{recordVersion, l.diffID, l.info}); err != nil {
		return Info{}, fmt.Errorf("cannot record layer %s: %w", l.diffID, err)
	}
	return l.store.put(l.diffID, l.dir, l.info)
}

// put makes a finished layer reachable. When two unpacked the same layer the
// first wins.
func (s *Store) put(diffID digest.Digest, dir string, info Info) (Info, error) {
	s.publish.Lock()
	defer s.publish.Unlock()
	if have, ok := s.Info(diffID); ok {
		return have, nil
	}
	if err := os.Rename(dir, s.path(diffID)); err != nil {
		return Info{}, fmt.Errorf("cannot keep layer %s: %w", diffID, err)
	}
	if err := SyncDir(filepath.Join(s.dir, layersDir)); err != nil {
		// Whoever gets the layer next finds its place free.
		return Info{}, errors.Join(fmt.Errorf("cannot keep layer %s: %w", diffID, err), os.Rename(s.path(diffID), dir))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(diffID, info)
	return info, nil
}

// Remove deletes a layer and its files. It is no error if there is none.
func (s *Store) Remove(diffID digest.Digest) error {
	purge, err := s.Detach(diffID)
	if err != nil {
		return err
	}
	return purge()
}

// Detach makes a layer unreachable at once, with one rename. The purge that it
// returns deletes the files and may take long; it may be called without any
// lock, once. After a crash in between Open deletes them.
func (s *Store) Detach(diffID digest.Digest) (purge func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.layers[diffID]
	if !ok {
		return func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp(filepath.Join(s.dir, trashDir), "")
	if err != nil {
		return nil, fmt.Errorf("cannot remove layer %s: %w", diffID, err)
	}
	if err := os.Rename(s.path(diffID), filepath.Join(dir, "layer")); err != nil {
		return nil, fmt.Errorf("cannot remove layer %s: %w", diffID, err)
	}
	delete(s.layers, diffID)
	s.bytes -= uint64(info.Disk)
	s.inodes -= uint64(info.Inodes)
	return func() error { return removeTree(dir) }, nil
}

func (s *Store) path(diffID digest.Digest, elem ...string) string {
	return filepath.Join(append([]string{s.dir, layersDir, dirName(diffID)}, elem...)...)
}

// dirName has no colon: overlay's lowerdir option separates directories by it.
func dirName(diffID digest.Digest) string {
	return strings.Replace(string(diffID), ":", "-", 1)
}

// empty deletes what is in a directory.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list %s: %w", dir, err)
	}
	for _, e := range entries {
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("cannot empty %s: %w", dir, err)
		}
	}
	return nil
}

func writeRecord(dir string, rec record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, recordFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	return errors.Join(err, f.Sync(), f.Close(), SyncDir(dir))
}

func readRecord(dir string) (record, error) {
	f, err := os.Open(filepath.Join(dir, recordFile))
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	var rec record
	if err := json.NewDecoder(io.LimitReader(f, recordLimit)).Decode(&rec); err != nil {
		return record{}, err
	}
	if rec.Version != recordVersion || rec.Size < 0 || rec.Disk < 0 || rec.Inodes < 0 {
		return record{}, errors.New("not a layer record of this version")
	}
	return rec, rec.DiffID.Validate()
}

// SyncDir puts the names in a directory on disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
