package routed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cri-box/cri-box/network"
)

// A lease is what a pod holds: its addresses and its host ports. It is one file,
// <state>/ipam/<pod id>, and readable with cat.
type lease struct {
	Version   int                   `json:"version"`
	Pod       string                `json:"pod"`
	Namespace string                `json:"namespace"`
	Name      string                `json:"name"`
	IPs       []netip.Addr          `json:"ips"`
	Ports     []network.PortMapping `json:"ports,omitempty"`
	Bandwidth network.Bandwidth     `json:"bandwidth,omitzero"`
}

const (
	leaseVersion = 1
	leaseLimit   = 1 << 20 // bytes read of one file
	nextFile     = "next"  // no pod id: it has letters that hex has not
)

// String names the pod for an error.
func (l lease) String() string {
	return fmt.Sprintf("pod %s/%s (%s)", l.Namespace, l.Name, short(l.Pod))
}

func short(id string) string { return id[:min(len(id), 12)] }

// leases is every lease, on disk and, as a cache of it, in memory.
type leases struct {
	dir   *os.Root
	pools []pool

	mu   sync.Mutex // guards what follows and the files
	byID map[string]lease
	used map[netip.Addr]string // address to pod id
	next uint64                // index at which the search for an address goes on
	file *os.File              // holds next

	// Who has a port and whose id begins so: asked for each new pod, and not to cost
	// more with each that is there.
	byPort map[portKey][]string
	byName map[string][]string
}

// A portKey is a port on any of the host's addresses.
type portKey struct {
	protocol network.Protocol
	port     uint16
}

// openLeases reads what is there. A file that cannot be read is one bad lease: it
// is set aside as <id>.bad, and the kernel's own routes keep its addresses from
// being given away.
func openLeases(path string, pools []pool) (*leases, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make lease directory: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open lease directory: %w", err)
	}
	l := &leases{dir: dir, pools: pools, byID: map[string]lease{}, used: map[netip.Addr]string{},
		byPort: map[portKey][]string{}, byName: map[string][]string{}}
	if err := l.load(); err != nil {
		l.close()
		return nil, fmt.Errorf("cannot read leases in %s: %w", path, err)
	}
	return l, nil
}

func (l *leases) load() error {
	data, err := l.read(nextFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.next, _ = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64) // lost: the round begins anew
	if l.file, err = l.dir.OpenFile(nextFile, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
		return err
	}
	entries, err := fs.ReadDir(l.dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case strings.HasSuffix(name, ".tmp"): // of a process killed between write and rename
			if err := l.dir.Remove(name); err != nil {
				return err
			}
		case checkID(name) == nil:
			if err := l.loadOne(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *leases) loadOne(id string) error {
	data, err := l.read(id)
	if err != nil {
		return err
	}
	var one lease
	if json.Unmarshal(data, &one) != nil || one.Version != leaseVersion || one.Pod != id || len(one.IPs) == 0 {
		return l.dir.Rename(id, id+".bad")
	}
	l.keepLocked(one)
	return nil
}

func (l *leases) read(name string) ([]byte, error) {
	f, err := l.dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, leaseLimit))
}

// claim returns the pod's lease, made or, for a pod that has one, with these
// ports in place of the old ones.
func (l *leases) claim(pod network.Pod, ports []network.PortMapping) (lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.freePortsLocked(pod.ID, ports); err != nil {
		return lease{}, err
	}
	one, ok := l.byID[pod.ID]
	if ok && slices.Equal(one.Ports, ports) && one.Bandwidth == pod.Bandwidth {
		return one, nil
	}
	if err := l.freeNameLocked(pod.ID); !ok && err != nil {
		return lease{}, err
	}
	if !ok {
		ips, err := l.pickLocked()
		if err != nil {
			return lease{}, err
		}
		one = lease{Version: leaseVersion, Pod: pod.ID, Namespace: pod.Namespace, Name: pod.Name, IPs: ips}
	}
	one.Ports, one.Bandwidth = ports, pod.Bandwidth
	return one, l.saveLocked(one)
}

// move gives the pod other addresses, because somebody else on this host, whom
// these leases do not know, has a route to the present ones.
func (l *leases) move(id string) (lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.byID[id]
	ips, err := l.pickLocked()
	if err != nil {
		return lease{}, err
	}
	one.IPs = ips
	return one, l.saveLocked(one)
}

// drop ends a lease; that there is none is no error.
func (l *leases) drop(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range []string{id, id + ".bad"} {
		if err := l.dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove lease: %w", err)
		}
	}
	l.forgetLocked(id)
	return nil
}

func (l *leases) get(id string) (lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one, ok := l.byID[id]
	return one, ok
}

// all returns the leases in the order of pod ids.
func (l *leases) all() []lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.byID), func(a, b lease) int { return strings.Compare(a.Pod, b.Pod) })
}

func (l *leases) close() error {
	if l.file == nil {
		return l.dir.Close()
	}
	return errors.Join(l.file.Close(), l.dir.Close())
}

// pickLocked finds the next free addresses, one of each family at the same index.
// The search goes on where it ended, so an address rests for a whole round before
// somebody else gets it and what still comes for the old pod.
func (l *leases) pickLocked() ([]netip.Addr, error) {
	size := l.pools[0].size
	for _, p := range l.pools {
		size = min(size, p.size)
	}
	for n := range size {
		index := (l.next + n) % size
		ips := make([]netip.Addr, 0, len(l.pools))
		for _, p := range l.pools {
			if ip := p.at(index); l.used[ip] == "" {
				ips = append(ips, ip)
			}
		}
		if len(ips) < len(l.pools) {
			continue
		}
		l.next = (index + 1) % size
		// In place and of constant length: one write is whole or not there.
		if _, err := fmt.Fprintf(io.NewOffsetWriter(l.file, 0), "%020d\n", l.next); err != nil {
			return nil, fmt.Errorf("cannot write lease: %w", err)
		}
		return ips, nil
	}
	return nil, fmt.Errorf("cannot find an address in %s: all %d are in use: %w", l.pools[0].prefix, size, network.ErrNoAddress)
}

func (l *leases) saveLocked(one lease) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetIndent("", "  ")
	if err := enc.Encode(one); err != nil {
		return fmt.Errorf("cannot encode lease: %w", err)
	}
	if err := l.writeLocked(one.Pod, buf.Bytes()); err != nil {
		return err
	}
	l.keepLocked(one)
	return nil
}

// keepLocked puts a lease into memory in place of the one that the pod had.
func (l *leases) keepLocked(one lease) {
	l.forgetLocked(one.Pod)
	l.byID[one.Pod] = one
	l.byName[one.Pod[:8]] = append(l.byName[one.Pod[:8]], one.Pod)
	for _, ip := range one.IPs {
		l.used[ip] = one.Pod
	}
	for _, p := range one.Ports {
		key := portKey{p.Protocol, p.HostPort}
		l.byPort[key] = append(l.byPort[key], one.Pod)
	}
}

func (l *leases) forgetLocked(id string) {
	one, ok := l.byID[id]
	if !ok {
		return
	}
	delete(l.byID, id)
	leave(l.byName, id[:8], id)
	for _, ip := range one.IPs {
		delete(l.used, ip)
	}
	for _, p := range one.Ports {
		leave(l.byPort, portKey{p.Protocol, p.HostPort}, id)
	}
}

// leave takes a pod off a list of an index.
func leave[K comparable](index map[K][]string, key K, id string) {
	index[key] = slices.DeleteFunc(index[key], func(other string) bool { return other == id })
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

// writeLocked replaces a file whole. No fsync: a power cut ends the pods too.
func (l *leases) writeLocked(name string, data []byte) error {
	temporary := name + ".tmp"
	err := l.dir.WriteFile(temporary, data, 0o600)
	if err == nil {
		err = l.dir.Rename(temporary, name)
	}
	if err != nil {
		l.dir.Remove(temporary)
		return fmt.Errorf("cannot write lease: %w", err)
	}
	return nil
}

// freeNameLocked refuses an id that begins as another pod's does: their interfaces
// would have one name. It happens once in millions of pods, and the next id is fine.
func (l *leases) freeNameLocked(id string) error {
	if other, alike := l.alikeLocked(id); alike {
		return fmt.Errorf("cannot name the interface of pod %s: it would be that of %s; make the pod with another id", short(id), other)
	}
	return nil
}

func (l *leases) alikeLocked(id string) (lease, bool) {
	for _, other := range l.byName[id[:8]] {
		if other != id {
			return l.byID[other], true
		}
	}
	return lease{}, false
}

// alike says whether the interface named after id is another pod's.
func (l *leases) alike(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, alike := l.alikeLocked(id)
	return alike
}

// freePortsLocked refuses ports that another pod has. The kernel's map would
// refuse an equal key too; that 0.0.0.0:80 and 192.0.2.1:80 meet, it cannot know.
func (l *leases) freePortsLocked(id string, ports []network.PortMapping) error {
	for _, want := range ports {
		for _, other := range l.byPort[portKey{want.Protocol, want.HostPort}] {
			if other == id {
				continue
			}
			one := l.byID[other]
			if slices.ContainsFunc(one.Ports, func(have network.PortMapping) bool { return meet(have, want) }) {
				return takenError(want, one.String())
			}
		}
	}
	return nil
}

func takenError(port network.PortMapping, owner string) error {
	return fmt.Errorf("cannot publish %s: %s has it: %w", portName(port), owner, network.ErrPortTaken)
}

// A pool is a range of addresses of one family.
type pool struct {
	prefix netip.Prefix
	size   uint64 // addresses that pods may have
}

// newPool leaves out the first address, which is the network's own (for IPv6 the
// subnet router's, RFC 4291 2.6.1), and IPv4's last, the broadcast address.
func newPool(prefix netip.Prefix) (pool, error) {
	if prefix != prefix.Masked() {
		return pool{}, fmt.Errorf("cannot use pod range %s: it has host bits, write %s", prefix, prefix.Masked())
	}
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits < 2 {
		return pool{}, fmt.Errorf("cannot use pod range %s: it has room for fewer than two pods", prefix)
	}
	size := uint64(1) << min(bits, 32)
	if prefix.Addr().Is4() {
		return pool{prefix, size - 2}, nil
	}
	return pool{prefix, size - 1}, nil
}

// at returns the address at an index below size.
func (p pool) at(index uint64) netip.Addr {
	raw := p.prefix.Addr().AsSlice()
	for i, rest := len(raw)-1, index+1; rest > 0; i-- {
		raw[i] |= byte(rest)
		rest >>= 8
	}
	ip, _ := netip.AddrFromSlice(raw)
	return ip
}
