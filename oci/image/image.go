// Package image is the image service: it pulls images from registries, imports
// them from archives, keeps their records and says which layers a container
// stacks.
//
// A pull is one pass. Each layer goes from the network through its digest, the
// inflater and the diffID's digest into files, several layers at a time, and
// nothing is written twice. A dropped connection goes on where it ended, by
// Range.
//
// The registry client is containerd's core/remotes/docker, because it reads
// hosts.toml as containerd's users know it, knows the mirrors' order and
// capabilities and the token servers of this world; go-containerregistry has
// none of hosts.toml. It is wrapped here: a body that stalls is cut, answers are
// bounded, secrets stay with the origin they were meant for, and errors carry
// no query strings. Unpacking is oci/snapshot's.
//
// On disk, below Config.Root:
//
//	images.db           bbolt: records, manifests and configurations (see db.go)
//	layers/ incoming/ trash/   oci/snapshot's
//
// A layer stays while an image or a holder (a container, a pull) refers to it.
package image

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-box/cri-box/oci/snapshot"
)

// Config says where images are and what they may take. A zero field stands for
// its default.
type Config struct {
	// Root is the directory of images and layers. It must be given.
	Root string
	// CertsDirs are the directories with <host>/hosts.toml or certificates, the
	// first that knows a host wins. Default /etc/cri-box/certs.d. They are read
	// at every pull.
	CertsDirs []string
	// VerifierDir is the directory of programs that have to accept each image that
	// is pulled (package verify). Default none.
	VerifierDir string
	// MaxConcurrentLayers bounds the layers that are downloaded and unpacked at
	// a time, over all pulls; a registry has one place in any case. Default 4.
	MaxConcurrentLayers int
	// Pinned are names of images that the kubelet must not remove. "*" stands
	// for anything.
	Pinned []string
	// Limits bound each layer.
	Limits snapshot.Limits
	// StallTimeout is how long a registry may send nothing before the
	// connection is given up and resumed. Default 30 s.
	StallTimeout time.Duration
	// RetryPause is how long a download that broke waits for its second try, and
	// as much longer each time. Default 500 ms.
	RetryPause time.Duration
	// KeepUnused is how long layers of a failed pull wait for its retry.
	// Default 10 minutes.
	KeepUnused time.Duration
	// UserAgent is what registries see. Default "cri-box".
	UserAgent string
	// Log receives what nobody waits for. Default slog.Default().
	Log *slog.Logger
}

// Image is one image. It and what it refers to must not be changed.
type Image struct {
	// ID is the digest of the configuration, "sha256:" and 64 hex digits.
	ID string
	// RepoTags are the full names with tags, RepoDigests those with digests.
	RepoTags, RepoDigests []string
	// Size is the bytes of all files of all layers, the configuration and the
	// manifest. It is above 0 and never changes.
	Size int64
	// Config is the image's configuration.
	Config ocispec.Image
	// UID is the image's user if that is a number, otherwise Username is its name.
	UID      *int64
	Username string
	// Pinned says that a pattern of Config.Pinned has one of the names.
	Pinned bool
	// Manifest is the digest of the manifest for this platform.
	Manifest digest.Digest
	// Layers are the diffIDs, bottom first.
	Layers []digest.Digest
}

// Store is the image service. Its methods may be called from several goroutines.
type Store struct {
	config  Config
	layers  *snapshot.Store
	live    atomic.Pointer[settings] // what Configure changes
	places  *places
	now     atomic.Pointer[index]
	pulls   atomic.Uint64 // numbers pulls, for their holds
	traffic traffic

	flightsMu sync.Mutex
	flights   map[flightKey]*flight

	// changes are made one at a time: of the database, which waits for the disk, and
	// of the index. Nobody needs it to use an image.
	changes sync.Mutex
	db      *database

	mu    sync.Mutex // guards usage, together with the index: never held over a sync
	usage *references
	work  sync.WaitGroup // deletions under way
}

// Open opens the image service. A second Open of the same root, from any
// process, fails. The layers that no image refers to stay until Collect.
func Open(config Config) (*Store, error) {
	config = config.withDefaults()
	if config.Root == "" {
		return nil, fmt.Errorf("cannot open images: no root directory is given")
	}
	pinned, err := compilePatterns(config.Pinned)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Root, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make image directory: %w", err)
	}
	db, err := openDatabase(filepath.Join(config.Root, databaseFile), config.Log)
	if err != nil {
		return nil, err
	}
	layers, err := snapshot.Open(config.Root)
	if err != nil {
		db.close()
		return nil, err
	}
	s := &Store{
		config:  config,
		layers:  layers,
		places:  newPlaces(config.MaxConcurrentLayers),
		flights: map[flightKey]*flight{},
		db:      db,
		usage:   newReferences(),
	}
	s.live.Store(&settings{config, pinned})
	if err := s.load(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (c Config) withDefaults() Config {
	if c.CertsDirs == nil {
		c.CertsDirs = []string{"/etc/cri-box/certs.d"}
	}
	if c.MaxConcurrentLayers <= 0 {
		c.MaxConcurrentLayers = 4
	}
	if c.StallTimeout <= 0 {
		c.StallTimeout = 30 * time.Second
	}
	if c.RetryPause <= 0 {
		c.RetryPause = 500 * time.Millisecond
	}
	if c.KeepUnused <= 0 {
		c.KeepUnused = 10 * time.Minute
	}
	if c.UserAgent == "" {
		c.UserAgent = "cri-box"
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Close ends the use of the store and waits for deletions. No pull may be under
// way.
func (s *Store) Close() error {
	s.mu.Lock()
	s.usage.stopTimers()
	s.mu.Unlock()
	s.work.Wait()
	err := s.layers.Close()
	if dbErr := s.db.close(); err == nil {
		err = dbErr
	}
	return err
}

// List returns all images, sorted by ID. The slice is shared and must not be
// changed; it stays as it was when images come and go.
func (s *Store) List() []Image { return s.now.Load().list }

// LayerPaths returns the directories of an image's layers in the order of
// overlay's lowerdir: the top first.
func (s *Store) LayerPaths(img Image) []string {
	seen := map[digest.Digest]bool{}
	var paths []string
	for i := len(img.Layers) - 1; i >= 0; i-- {
		id := img.Layers[i]
		// Overlay refuses one directory twice, and the upper one of two equal
		// layers covers the lower.
		if seen[id] {
			continue
		}
		seen[id] = true
		path, _ := s.layers.Layer(id)
		paths = append(paths, path)
		if info, _ := s.layers.Info(id); info.Opaque {
			break
		}
	}
	return paths
}

// Fs returns what images take on disk, each byte once: a sum that is kept, not
// a walk. The database is part of it.
func (s *Store) Fs() (bytes, inodes uint64) {
	bytes, inodes = s.layers.Usage()
	return bytes + s.db.size(), inodes + 1
}

// Root returns the directory of images and layers.
func (s *Store) Root() string { return s.config.Root }
