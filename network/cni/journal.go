package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/cri-box/cri-box/network"
)

const journalVersion = 1

// temporarySuffix is that of a file that is being written.
const temporarySuffix = ".tmp"

// An attachment is what plugins were asked to do for a pod, with all that is
// needed to take it back: one file, <dir>/attached/<pod id>, written before the
// first ADD and removed after the DEL that succeeded. It survives the boot, as
// the plugins' own address records do.
type attachment struct {
	Version   int    `json:"version"`
	Pod       string `json:"pod"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	NetNS     string `json:"netns"`
	File      string `json:"file"`

	List         json.RawMessage `json:"list"`
	Args         [][2]string     `json:"args"`
	Capabilities map[string]any  `json:"capabilities,omitempty"`

	// Result is what ADD gave; nil until it did.
	Result *network.Result `json:"result,omitempty"`

	// Leaving is set when the pod is gone and the plugins have to hear of it.
	Leaving   bool      `json:"leaving,omitempty"`
	Attempts  int       `json:"attempts,omitempty"` // DELs that failed
	Next      time.Time `json:"next,omitzero"`      // when DEL is tried again
	LastError string    `json:"last_error,omitempty"`
}

// network parses the list again.
func (a *attachment) network() (*libcni.NetworkConfigList, error) {
	list, err := libcni.NetworkConfFromBytes(a.List)
	if err != nil {
		return nil, fmt.Errorf("cannot read the recorded network of pod %s: %w", short(a.Pod), err)
	}
	return list, nil
}

// runtime is the attachment as libcni wants it. A namespace that is gone is told
// as none: plugins then release what they hold outside of it.
func (a *attachment) runtime() *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: a.Pod, NetNS: a.NetNS, IfName: ifName, Args: a.Args, CapabilityArgs: a.Capabilities}
	if !exists(a.NetNS) {
		rt.NetNS = ""
	}
	return rt
}

func short(id string) string { return id[:min(len(id), 12)] }

// journal is every attachment, on disk and, as a cache of it, in memory.
type journal struct {
	dir *os.Root

	mu   sync.Mutex // guards byID and the files
	byID map[string]*attachment
}

// openJournal reads what is there. A file that cannot be read is set aside as
// <id>.bad; one that was not written to its end is removed.
func openJournal(path string) (*journal, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make directory of CNI attachments: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open directory of CNI attachments: %w", err)
	}
	j := &journal{dir: dir, byID: map[string]*attachment{}}
	if err := j.load(); err != nil {
		dir.Close()
		return nil, fmt.Errorf("cannot read CNI attachments in %s: %w", path, err)
	}
	return j, nil
}

func (j *journal) load() error {
	entries, err := fs.ReadDir(j.dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if id, unfinished := strings.CutSuffix(name, temporarySuffix); unfinished && checkID(id) == nil {
			if err := j.dir.Remove(name); err != nil {
				return err
			}
		}
		if checkID(name) != nil {
			continue
		}
		one, err := j.read(name)
		if err != nil {
			if err := j.dir.Rename(name, name+".bad"); err != nil {
				return err
			}
			continue
		}
		j.byID[name] = one
	}
	return nil
}

func (j *journal) read(id string) (*attachment, error) {
	f, err := j.dir.Open(id)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	one := new(attachment)
	if err := json.NewDecoder(io.LimitReader(f, 4*configLimit)).Decode(one); err != nil {
		return nil, err
	}
	if one.Version != journalVersion || one.Pod != id {
		return nil, errors.New("it is of another version or pod")
	}
	return one, nil
}

// save replaces the pod's file whole. No fsync on the pod's way: after a power cut
// the plugins' GC, or a person, has to find what a lost file knew.
func (j *journal) save(one attachment) error {
	data, err := json.MarshalIndent(one, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode CNI attachment: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	temporary := one.Pod + temporarySuffix
	if err = j.dir.WriteFile(temporary, data, 0o600); err == nil {
		err = j.dir.Rename(temporary, one.Pod)
	}
	if err != nil {
		j.dir.Remove(temporary)
		return fmt.Errorf("cannot write CNI attachment: %w", err)
	}
	j.byID[one.Pod] = &one
	return nil
}

// drop forgets a pod; that there is none is no error.
func (j *journal) drop(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.dir.Remove(id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove CNI attachment: %w", err)
	}
	delete(j.byID, id)
	return nil
}

func (j *journal) get(id string) (attachment, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	one, ok := j.byID[id]
	if !ok {
		return attachment{}, false
	}
	return *one, true
}

// all returns the attachments in the order of pod ids.
func (j *journal) all() []attachment {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []attachment
	for _, id := range slices.Sorted(maps.Keys(j.byID)) {
		out = append(out, *j.byID[id])
	}
	return out
}

// checkID accepts what pod ids are made of. They name files.
func checkID(id string) error {
	if len(id) < 8 || len(id) > 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("cannot use pod id %q: it has to be 8 to 64 lower-case hex digits", id)
	}
	return nil
}
