package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// maxPending bounds a line of a log that has no end yet, in bytes. The daemon
// splits lines far below it.
const maxPending = 1 << 20

// A logFile reads a container's log in the format that the kubelet reads: time,
// stream, P or F for a part or the end of a line, and the text.
type logFile struct {
	path    string
	form    logOptions
	file    *os.File
	in      *bufio.Reader
	pending []byte // a line that was not written whole yet
	begun   bool   // the last part printed was no end of a line
}

// A logLine is a line, or a part of one, for programs.
type logLine struct {
	Time    string `json:"time"`
	Stream  string `json:"stream"`
	Partial bool   `json:"partial,omitempty"` // the line goes on in the next one
	Text    string `json:"text"`
}

func openLog(path string, form logOptions) (*logFile, error) {
	f := &logFile{path: path, form: form}
	return f, f.open()
}

func (f *logFile) open() error {
	file, err := os.Open(f.path)
	if err != nil {
		return fmt.Errorf("cannot read log: %w", err)
	}
	f.file, f.in, f.pending = file, bufio.NewReaderSize(file, 64<<10), nil
	return nil
}

func (f *logFile) close() { f.file.Close() }

// skip goes to the last lines of the file; negative: to its begin.
func (f *logFile) skip(lines int) error {
	if lines < 0 {
		return nil
	}
	lines = min(lines, math.MaxInt/2)
	at := make([]int64, 0, 1024) // where the last lines begin, as a ring
	offset, next := int64(0), int64(0)
	for {
		line, err := f.in.ReadSlice('\n')
		next += int64(len(line))
		if err == nil {
			at = append(at, offset)
			if len(at) > max(2*lines, 1024) {
				at = append(at[:0], at[len(at)-lines:]...)
			}
			offset = next
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("cannot read log: %w", err)
		}
	}
	start := offset
	if n := min(lines, len(at)); n > 0 {
		start = at[len(at)-n]
	}
	if _, err := f.file.Seek(start, io.SeekStart); err != nil {
		return fmt.Errorf("cannot read log: %w", err)
	}
	f.in.Reset(f.file)
	return nil
}

// copy prints what has come since the last time and says whether that was anything.
func (f *logFile) copy(stdout, stderr io.Writer) (some bool, err error) {
	for {
		part, err := f.in.ReadSlice('\n')
		f.pending = append(f.pending, part...)
		switch {
		case err == nil:
			some = true
			if err := f.print(f.pending, stdout, stderr); err != nil {
				return some, err
			}
			f.pending = f.pending[:0]
		case errors.Is(err, bufio.ErrBufferFull) && len(f.pending) < maxPending:
		case errors.Is(err, io.EOF):
			return some, nil
		default:
			return some, fmt.Errorf("cannot read log %s: %w", f.path, err)
		}
	}
}

func (f *logFile) print(line []byte, stdout, stderr io.Writer) error {
	stamp, rest, _ := bytes.Cut(line, []byte(" "))
	stream, rest, _ := bytes.Cut(rest, []byte(" "))
	tag, text, ok := bytes.Cut(rest, []byte(" "))
	if !ok || len(tag) != 1 {
		return fmt.Errorf("cannot read log %s: %.60q is no line of a container's log", f.path, line)
	}
	if f.form.json {
		return json.NewEncoder(stdout).Encode(logLine{string(stamp), string(stream), tag[0] == 'P', string(bytes.TrimSuffix(text, []byte("\n")))})
	}
	out := stdout
	if string(stream) == "stderr" {
		out = stderr
	}
	if f.form.times && !f.begun {
		text = slices.Concat(stamp, []byte(" "), text)
	}
	f.begun = tag[0] == 'P'
	if f.begun {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	_, err := out.Write(text)
	return err
}

// follow prints until end is closed and the file is at its end, or until ctx is done.
func (f *logFile) follow(ctx context.Context, end <-chan struct{}) error {
	changes, stop, err := watchDir(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer stop()
	for {
		ended := closed(end)
		some, err := f.copy(os.Stdout, os.Stderr)
		if err != nil {
			return err
		}
		rotated, err := f.rotated(os.Stdout, os.Stderr)
		if err != nil {
			return err
		}
		switch {
		case some || rotated:
			continue
		case ended:
			return nil
		}
		select {
		case <-changes:
		case <-end:
		case <-ctx.Done():
			return nil
		}
	}
}

// rotated opens the path anew when another file has its name now, and something in
// it: from then on nothing goes to the one before, of which the rest is printed.
func (f *logFile) rotated(stdout, stderr io.Writer) (bool, error) {
	now, err := os.Stat(f.path)
	if err != nil || now.Size() == 0 {
		return false, nil // between two files, or removed with the container
	}
	have, err := f.file.Stat()
	if err != nil || os.SameFile(now, have) {
		return false, err
	}
	if _, err := f.copy(stdout, stderr); err != nil {
		return false, err
	}
	f.file.Close()
	return true, f.open()
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// watchDir tells of every change in a directory's files (inotify(7)). What
// happens while nobody listens is told once.
func watchDir(dir string) (<-chan struct{}, func(), error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	in := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		in.Close()
		return nil, nil, fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	changes := make(chan struct{}, 1)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := in.Read(buf); err != nil {
				return
			}
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes, func() { in.Close() }, nil
}
