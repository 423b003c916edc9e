// Package record keeps one file per pod and container.
//
// A record is a line that says what follows and its checksum, then JSON that a
// person can read:
//
//	cri-box pod 1 sha256:6f0c…
//	{ … }
//
// A change is another one at the file's end; the last is what holds. When that
// would make a file of several times the size of one, it is replaced by rename
// instead: not each time, because a file system may write out at once what
// replaces a file (ext4(5), auto_da_alloc), and the caller would wait for the disk.
//
// So a killed daemon leaves the old or the new one: a last one that is torn counts
// as not written. There is no fsync: a power cut ends the pods as well, and a
// record of which nothing whole is left is set aside, not trusted.
package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is the record's name within its object's directory.
const FileName = "record.json"

// maxSize bounds what is read back, in bytes: a CRI request is at most 16 MiB.
const maxSize = 32 << 20

// ErrCorrupt marks a record that cannot be trusted.
var ErrCorrupt = errors.New("record is damaged")

// A Kind says what a record describes and which version of its form is written.
type Kind struct {
	Name    string
	Version int
}

func (k Kind) header(body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf("cri-box %s %d sha256:%s\n", k.Name, k.Version, hex.EncodeToString(sum[:]))
}

// entries is how many times the size of one a record's file may have.
const entries = 8

// Save writes v as the record in dir, which exists. One at a time for a directory.
func (k Kind) Save(dir string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode %s record: %w", k.Name, err)
	}
	entry, path := append([]byte(k.header(body)), body...), filepath.Join(dir, FileName)
	added, err := add(path, entry)
	if err == nil && !added {
		err = replace(path, entry)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s record: %w", k.Name, err)
	}
	return nil
}

// add writes an entry at the end of the file, if there is one that is not too long.
func add(path string, entry []byte) (bool, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size()+int64(len(entry)) > min(int64(entries*len(entry)), maxSize) {
		return false, err
	}
	if _, err := f.WriteAt(append([]byte{'\n'}, entry...), info.Size()); err != nil {
		return false, errors.Join(err, f.Truncate(info.Size()))
	}
	return true, nil
}

func replace(path string, entry []byte) error {
	if err := os.WriteFile(path+".new", entry, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Load reads the record in dir into v. A record that is damaged, of another
// kind, or of a later version is ErrCorrupt; one that is missing is
// fs.ErrNotExist.
func (k Kind) Load(dir string, v any) error {
	b, err := read(filepath.Join(dir, FileName))
	if err != nil {
		return fmt.Errorf("cannot read %s record: %w", k.Name, err)
	}
	body, err := k.last(b)
	if err != nil {
		return fmt.Errorf("cannot read %s record: %w", k.Name, err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("cannot read %s record: %v: %w", k.Name, err, ErrCorrupt)
	}
	return nil
}

// last gives the body of a file's last entry, or of the one before if that is torn.
func (k Kind) last(b []byte) ([]byte, error) {
	at := bytes.LastIndex(b, begin)
	body, err := k.body(b[at+1:])
	if at >= 0 && errors.Is(err, errTorn) {
		b = b[:at]
		body, err = k.body(b[bytes.LastIndex(b, begin)+1:])
	}
	return body, err
}

// Where an entry begins that is not the first, and where the JSON of one ends: within
// it no line begins so.
var begin, end = []byte("\ncri-box "), []byte("\n}")

// errTorn is what is left of an entry that was not written whole.
var errTorn = fmt.Errorf("it is torn: %w", ErrCorrupt)

// body is what a whole entry says; behind it there may be the first bytes of a torn one.
func (k Kind) body(entry []byte) ([]byte, error) {
	head, body, found := bytes.Cut(entry, []byte{'\n'})
	var name, sum string
	var version int
	if _, err := fmt.Sscanf(string(head), "cri-box %s %d sha256:%s", &name, &version, &sum); err != nil || !found {
		return nil, fmt.Errorf("it does not begin as one: %w", errTorn)
	}
	if name != k.Name || version > k.Version {
		return nil, fmt.Errorf("it is a %s record of version %d, this is made for %s %d: %w", name, version, k.Name, k.Version, ErrCorrupt)
	}
	n := bytes.Index(body, end)
	if n < 0 {
		return nil, fmt.Errorf("it does not end as one: %w", errTorn)
	}
	body = body[:n+len(end)]
	if want := sha256.Sum256(body); hex.EncodeToString(want[:]) != sum {
		return nil, fmt.Errorf("its checksum is wrong: %w", errTorn)
	}
	return body, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(b) > maxSize {
		return nil, fmt.Errorf("it has more than %d bytes: %w", maxSize, ErrCorrupt)
	}
	return b, err
}

// QuarantineDir is where damaged records go, beside the good ones; WhyFile, in
// the directory of each, says what is wrong with it.
const (
	QuarantineDir = "quarantine"
	WhyFile       = "why"
)

// Quarantine moves an object's directory out of the way, to dir/../quarantine,
// where a person can look at it and at the reason, and returns its new place.
func Quarantine(dir string, why error) (string, error) {
	place := filepath.Join(filepath.Dir(dir), QuarantineDir)
	if err := os.MkdirAll(place, 0o700); err != nil {
		return "", fmt.Errorf("cannot quarantine %s: %w", dir, err)
	}
	to := filepath.Join(place, filepath.Base(dir))
	if err := os.RemoveAll(to); err != nil {
		return "", fmt.Errorf("cannot quarantine %s: %w", dir, err)
	}
	if err := os.Rename(dir, to); err != nil {
		return "", fmt.Errorf("cannot quarantine %s: %w", dir, err)
	}
	if err := os.WriteFile(filepath.Join(to, WhyFile), []byte(why.Error()+"\n"), 0o600); err != nil {
		return to, fmt.Errorf("cannot say why %s is in quarantine: %w", to, err)
	}
	return to, nil
}
