// Package record keeps one file per pod and container.
//
// A record is a line that says what follows and its checksum, then JSON that a
// person can read:
//
//	cri-box pod 1 sha256:6f0c…
//	{ … }
//
// It is replaced by rename, so that a killed daemon leaves the old or the new
// one. There is no fsync: a power cut ends the pods as well, and a record that
// it tore is set aside, not trusted.
package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// Save writes v as the record in dir, which exists.
func (k Kind) Save(dir string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode %s record: %w", k.Name, err)
	}
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path+".new", append([]byte(k.header(body)), body...), 0o600); err != nil {
		return fmt.Errorf("cannot write %s record: %w", k.Name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot write %s record: %w", k.Name, err)
	}
	return nil
}

// Load reads the record in dir into v. A record that is damaged, of another
// kind, or of a later version is ErrCorrupt; one that is missing is
// fs.ErrNotExist.
func (k Kind) Load(dir string, v any) error {
	b, err := read(filepath.Join(dir, FileName))
	if err != nil {
		return fmt.Errorf("cannot read %s record: %w", k.Name, err)
	}
	head, body, found := bytes.Cut(b, []byte{'\n'})
	var name, sum string
	var version int
	if _, err := fmt.Sscanf(string(head), "cri-box %s %d sha256:%s", &name, &version, &sum); err != nil || !found {
		return fmt.Errorf("cannot read %s record: it does not begin as one: %w", k.Name, ErrCorrupt)
	}
	if name != k.Name || version > k.Version {
		return fmt.Errorf("cannot read %s record: it is a %s record of version %d, this is made for %d: %w", k.Name, name, version, k.Version, ErrCorrupt)
	}
	if want := sha256.Sum256(body); hex.EncodeToString(want[:]) != sum {
		return fmt.Errorf("cannot read %s record: its checksum is wrong: %w", k.Name, ErrCorrupt)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("cannot read %s record: %v: %w", k.Name, err, ErrCorrupt)
	}
	return nil
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
