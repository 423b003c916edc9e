package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lineSize is the length of a log line that containers write, newline included.
const lineSize = 80

// logs measures how fast lines get into log files, of one container flat out and
// of many at once, and what that costs.
func logs(ctx context.Context, b *bench) error {
	for range b.rounds {
		for _, e := range b.endpoints {
			if err := e.logLoad(ctx, b, 1, b.logMiB<<20/lineSize); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			if b.writers > 1 {
				if err := e.logLoad(ctx, b, b.writers, b.logMiB<<20/lineSize/b.writers); err != nil {
					return fmt.Errorf("%s: %w", e.name, err)
				}
			}
		}
	}
	return nil
}

// logLoad runs containers that each write that many lines, and waits until the
// last line is in each file.
func (e *endpoint) logLoad(ctx context.Context, b *bench, writers, lines int) (err error) {
	s := b.settings
	s.unlimited = true
	// It begins when something is written to the pipe: all at once, and nobody asks meanwhile.
	// The lines are made before, or those who make them would be what is measured.
	s.command = []string{"/bin/sh", "-c", fmt.Sprintf("yes %0*d | head -n %d > /dev/shm/lines; mkfifo /go; read x < /go; cat /dev/shm/lines; echo END; exec sleep 100000", lineSize-1, 0, lines)}
	pods, err := e.raiseMany(ctx, s, writers)
	defer func() { err = e.lower(ctx, pods, err) }()
	if err != nil {
		return err
	}
	before, began := e.cpu(), time.Now()
	for _, p := range pods {
		r, err := e.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"/bin/sh", "-c", "until [ -p /go ]; do usleep 10000; done; echo > /go"}, Timeout: 60})
		if err != nil || r.ExitCode != 0 {
			return fmt.Errorf("cannot begin: %v %w", r, err)
		}
	}
	for _, p := range pods {
		if err := waitEnd(ctx, filepath.Join(p.config.LogDirectory, "c.log")); err != nil {
			return err
		}
	}
	mb := float64(writers*lines*lineSize) / 1e6
	row := fmt.Sprintf("%d writing", writers)
	e.add("log MB/s, "+row, mb/time.Since(began).Seconds())
	e.add("CPU s per log GB, "+row, (e.cpu()-before)/mb*1000)
	return nil
}

// waitEnd waits for the line END at the file's end.
func waitEnd(ctx context.Context, path string) error {
	for {
		if f, err := os.Open(path); err == nil {
			tail := make([]byte, 16)
			st, err := f.Stat()
			if err == nil {
				n, _ := f.ReadAt(tail, max(0, st.Size()-int64(len(tail))))
				tail = tail[:n]
			}
			f.Close()
			if bytes.HasSuffix(tail, []byte(" END\n")) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for the end of %s: %w", path, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
