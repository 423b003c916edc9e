package image

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-box/cri-box/oci/snapshot"
)

// flightKey says which downloads are the same work. Credentials belong to it: who
// has none, or others, must get the layer from the registry himself. The registry
// does, too: one that sends slowly holds up nobody who did not name it.
type flightKey struct {
	registry     string
	auth         Auth
	blob, diffID digest.Digest
}

// flight is a layer under way, for one or more pulls.
type flight struct {
	done   chan struct{}
	err    error // valid once done is closed
	bytes  atomic.Int64
	synced atomic.Pointer[time.Time] // since when it waits for the disk
	there  atomic.Bool
	cancel context.CancelFunc
	users  int // guarded by Store.flightsMu
}

// getLayer returns once a layer is there: at once if it was, otherwise with the
// pull that is getting it already, otherwise by getting it.
func (s *Store) getLayer(ctx context.Context, j *job, i int, diffID digest.Digest) error {
	desc := j.content.layers[i]
	for {
		if _, ok := s.layers.Info(diffID); ok {
			j.finished(i, desc.Size)
			return nil
		}
		f, mine := s.join(ctx, j, desc, diffID)
		j.layers[i].Store(f)
		err := s.await(ctx, f)
		if err == nil {
			j.done.Add(1)
			return nil
		}
		if mine || ctx.Err() != nil {
			return fmt.Errorf("cannot get layer %s: %w", desc.Digest, err)
		}
		// Somebody else's repository may have failed where ours works.
	}
}

// join takes part in the flight of a layer and starts it if there is none.
func (s *Store) join(ctx context.Context, j *job, desc ocispec.Descriptor, diffID digest.Digest) (f *flight, mine bool) {
	key := flightKey{j.registry, j.auth, desc.Digest, diffID}
	s.flightsMu.Lock()
	defer s.flightsMu.Unlock()
	if f, ok := s.flights[key]; ok && f.users > 0 {
		f.users++
		return f, false
	}
	// The flight goes on while anybody waits for it, so it has its own end.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = &flight{done: make(chan struct{}), cancel: cancel, users: 1}
	s.flights[key] = f
	go func() {
		defer cancel()
		f.err = s.download(ctx, j, desc, diffID, f)
		f.there.Store(f.err == nil)
		s.flightsMu.Lock()
		if s.flights[key] == f {
			delete(s.flights, key)
		}
		s.flightsMu.Unlock()
		close(f.done)
	}()
	return f, true
}

// await returns the flight's result. When ctx ends first and nobody else waits,
// the flight is cancelled and await returns once it ended, so that nobody writes
// behind the back of a pull that is over.
func (s *Store) await(ctx context.Context, f *flight) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	s.flightsMu.Lock()
	f.users--
	last := f.users == 0
	s.flightsMu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
	return context.Cause(ctx)
}

// download gets one layer, when there is a place for it. The place is free again
// once the files are written: layers are synced together.
func (s *Store) download(ctx context.Context, j *job, desc ocispec.Descriptor, diffID digest.Digest, f *flight) error {
	if err := s.places.take(ctx, j.registry); err != nil {
		return err
	}
	staged, err := s.write(ctx, j.src, desc, diffID, &f.bytes)
	s.places.give(j.registry)
	if err != nil {
		return err
	}
	now := time.Now()
	f.synced.Store(&now)
	_, err = staged.Commit(ctx)
	return err
}

// write is the one pass: network, digest, inflate, diffID's digest, files.
func (s *Store) write(ctx context.Context, src source, desc ocispec.Descriptor, diffID digest.Digest, bytes *atomic.Int64) (*snapshot.Staged, error) {
	ctx, cancel := context.WithCancel(ctx)
	blob, err := openBlob(ctx, src, desc, func(n int) {
		bytes.Add(int64(n))
		s.traffic.received(n)
	})
	if err != nil {
		cancel()
		return nil, err
	}
	defer blob.Close()
	ahead := snapshot.NewAhead(blob)
	defer ahead.Close()
	defer cancel() // before ahead.Close, which waits for a read
	plain, err := inflate(ahead)
	if err != nil {
		return nil, fmt.Errorf("cannot inflate: %w", err)
	}
	defer plain.Close()
	return s.layers.Write(ctx, diffID, &wholeLayer{plain, ahead}, s.live.Load().Limits)
}
