package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/cri-box/cri-box/oci/snapshot"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The database, images.db. Every key but version is an image's ID. A change is
// one transaction, synced to disk before it counts.
//
//	meta
//	  version    "1"
//	records      JSON of a record
//	manifests    the manifest as it came
//	configs      the configuration as it came
//
// What the layers hold stands beside each layer (oci/snapshot). A database that
// cannot be read is set aside as images.db.broken and a new one begun; layers
// stay, so that the next pull of an image needs its manifest only.
const (
	databaseFile    = "images.db"
	databaseVersion = 1
	lockTimeout     = time.Second // for another process to let go of the file
)

var (
	metaBucket      = []byte("meta")
	recordsBucket   = []byte("records")
	manifestsBucket = []byte("manifests")
	configsBucket   = []byte("configs")
	versionKey      = []byte("version")
)

// record is what the database says about an image beside its raw content.
type record struct {
	Manifest digest.Digest `json:"manifest"`
	Tags     []string      `json:"tags,omitempty"`
	Digests  []string      `json:"digests,omitempty"`
	Size     int64         `json:"size"`
}

// stored is an image as the database has it.
type stored struct {
	id               string
	record           record
	manifest, config []byte
}

// database is images.db. Its methods are called with Store.changes held, apart from
// raw and size.
type database struct {
	bolt *bbolt.DB
	path string
}

// errBroken says that the file's content cannot be used: damaged, or of a later
// version, which is set aside too and is there for the program that wrote it.
var errBroken = errors.New("database is broken")

// openDatabase opens the file. If there is none or its content is broken, it begins
// a new one.
func openDatabase(path string, log *slog.Logger) (*database, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return newDatabase(path)
	}
	d, err := tryDatabase(path)
	if !errors.Is(err, errBroken) {
		return d, err
	}
	aside := path + ".broken"
	log.Error("image database cannot be read: starting with a new one, all images must be pulled again", "error", err, "aside", aside)
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("cannot set broken image database aside: %w", err)
	}
	return newDatabase(path)
}

// newDatabase makes the file elsewhere first: under its own name it is whole or not
// there, also after a power cut.
func newDatabase(path string) (*database, error) {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot make image database: %w", err)
	}
	d, err := tryDatabase(temporary) // what it writes is synced
	if err == nil {
		err = d.close()
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err == nil {
		err = snapshot.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make image database: %w", err)
	}
	return tryDatabase(path)
}

// tryDatabase opens the file and reads all of it once: damage shows now or not
// at all.
func tryDatabase(path string) (d *database, err error) {
	// bbolt panics on damaged pages, and a file that is too short is a fault of
	// its memory map.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			d, err = nil, fmt.Errorf("%w: %v", errBroken, r)
		}
	}()
	bolt, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("cannot open image database %s: another process has it open", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch), isShort(path):
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	case err != nil:
		return nil, fmt.Errorf("cannot open image database: %w", err)
	}
	d = &database{bolt, path}
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// isShort says whether a file has less than bbolt's two meta pages, for which
// bbolt has no error of its own.
func isShort(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() < 2*int64(os.Getpagesize())
}

// prepare reads every page, makes the buckets where they are missing and checks the
// version. Of a database that is as it should be it writes nothing: a start
// does not wait for the disk.
func (d *database) prepare() error {
	if err := d.check(); err != nil {
		return err
	}
	complete := false
	err := d.bolt.View(func(tx *bbolt.Tx) (err error) {
		complete, err = isComplete(tx)
		return err
	})
	if err == nil && !complete {
		err = d.bolt.Update(makeBuckets)
	}
	return err
}

// check reads every page. Nobody else writes: the file is locked.
func (d *database) check() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := checkPages(f, d.bolt.Info(), info.Size()); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return nil
}

// isComplete tells whether everything that makeBuckets makes is there.
func isComplete(tx *bbolt.Tx) (bool, error) {
	for _, name := range [][]byte{metaBucket, recordsBucket, manifestsBucket, configsBucket} {
		if tx.Bucket(name) == nil {
			return false, nil
		}
	}
	version := tx.Bucket(metaBucket).Get(versionKey)
	if version == nil {
		return false, nil
	}
	if n, err := strconv.Atoi(string(version)); err != nil || n != databaseVersion {
		return false, fmt.Errorf("%w: it has version %.20q, this program knows %d", errBroken, version, databaseVersion)
	}
	return true, nil
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, name := range [][]byte{metaBucket, recordsBucket, manifestsBucket, configsBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(metaBucket)
	if meta.Get(versionKey) != nil {
		return nil
	}
	return meta.Put(versionKey, []byte(strconv.Itoa(databaseVersion)))
}

func (d *database) close() error { return d.bolt.Close() }

// all reads every image, and gives those whose record cannot be read to bad.
func (d *database) all(bad func(id string, err error)) (images []stored, err error) {
	err = d.bolt.View(func(tx *bbolt.Tx) error {
		manifests, configs := tx.Bucket(manifestsBucket), tx.Bucket(configsBucket)
		return tx.Bucket(recordsBucket).ForEach(func(id, value []byte) error {
			img := stored{
				id:       string(id),
				manifest: append([]byte(nil), manifests.Get(id)...),
				config:   append([]byte(nil), configs.Get(id)...),
			}
			if err := json.Unmarshal(value, &img.record); err != nil {
				bad(img.id, err)
				return nil
			}
			images = append(images, img)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read image database: %w", err)
	}
	return images, nil
}

// change is what one transaction does.
type change struct {
	records map[string]record // to write
	add     *stored           // whose raw content to write, or nil
	remove  []string
}

// apply makes a change, synced, all of it or nothing.
func (d *database) apply(c change) error {
	err := d.bolt.Update(func(tx *bbolt.Tx) error {
		records, manifests, configs := tx.Bucket(recordsBucket), tx.Bucket(manifestsBucket), tx.Bucket(configsBucket)
		for id, rec := range c.records {
			data, err := json.Marshal(rec)
			if err != nil {
				return err
			}
			if err := records.Put([]byte(id), data); err != nil {
				return err
			}
		}
		if c.add != nil {
			id := []byte(c.add.id)
			if err := errors.Join(manifests.Put(id, c.add.manifest), configs.Put(id, c.add.config)); err != nil {
				return err
			}
		}
		for _, id := range c.remove {
			key := []byte(id)
			if err := errors.Join(records.Delete(key), manifests.Delete(key), configs.Delete(key)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot write image database: %w", err)
	}
	return nil
}

// raw returns an image's manifest and configuration as they came.
func (d *database) raw(id string) (manifest, config []byte, err error) {
	err = d.bolt.View(func(tx *bbolt.Tx) error {
		manifest = append([]byte(nil), tx.Bucket(manifestsBucket).Get([]byte(id))...)
		config = append([]byte(nil), tx.Bucket(configsBucket).Get([]byte(id))...)
		return nil
	})
	return manifest, config, err
}

// size returns the file's size in bytes.
func (d *database) size() uint64 {
	info, err := os.Stat(d.path)
	if err != nil {
		return 0
	}
	return uint64(info.Size())
}
