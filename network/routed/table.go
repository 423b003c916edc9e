package routed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A ruleset is the instance's whole nftables table as it has to be. It is
// declared, compared with what the kernel holds, and replaced in one transaction
// where it differs; only the sets' elements come and go with pods.
//
// The table does four things:
//
//	guard        what a pod sends has the pod's own source address
//	hostports    a packet to one of the host's addresses and a published port goes to the pod
//	postrouting  what leaves the pod range has the host's address; so has what would
//	             otherwise come back to the pod from itself or from 127.0.0.1
//	sets         published ports, with the pod's id as each element's comment
type ruleset struct {
	table  *nftables.Table
	sets   []*nftables.Set
	chains []chain
	// shown is how the kernel showed chains after it took them. A kernel may show
	// more than was declared; that alone is no reason to replace the table.
	shown []chain
}

type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

// Names of sets. A host port is looked up with the address first, if the mapping
// has one, then without; self holds pods that may meet themselves by a host port.
const (
	setIP4, setPort4, setSelf4 = "hostip4", "hostport4", "self4"
	setIP6, setPort6, setSelf6 = "hostip6", "hostport6", "self6"
)

// reg is the register for what has no register of its own.
const reg = unix.NFT_REG_1

// slot is the register of the nth four bytes, which concatenated keys fill one
// after the other. Four of them overlap with a register of 16 bytes; the kernel
// shows the first of the four as that one, and what is declared has to compare
// equal with what it shows.
func slot(n uint32) uint32 {
	if n%4 == 0 {
		return unix.NFT_REG_1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// declare is the wanted table: a pure function of the instance, its ranges and those
// that pods reach with their own address.
func declare(instance string, pools []pool, direct []netip.Prefix) ruleset {
	pods := linkPrefix(instance)
	table := &nftables.Table{Name: instance, Family: nftables.TableFamilyINet}
	return ruleset{table: table, sets: declareSets(table), chains: []chain{
		base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw).with(table, guard(pods)),
		chain{Chain: &nftables.Chain{Name: "hostports"}}.with(table, hostports()),
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest).with(table, [][]expr.Any{
			// The kernel drops 127/8 from outside as martian, but only if its
			// destination was not rewritten before it looks.
			rule(within(destination, loopback4), verdict(expr.VerdictReturn)),
			rule(toHost(), jump("hostports")),
		}),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest).with(table, [][]expr.Any{
			// IPv6 has no route_localnet: refuse at once rather than time out.
			rule(within(destination, loopback6), verdict(expr.VerdictReturn)),
			rule(toHost(), jump("hostports")),
		}),
		base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource).with(table, postrouting(pods, pools, direct)),
	}}
}

// base is a chain that packets enter by themselves.
func base(name string, kind nftables.ChainType, hook *nftables.ChainHook, at *nftables.ChainPriority) chain {
	accept := nftables.ChainPolicyAccept
	return chain{Chain: &nftables.Chain{Name: name, Type: kind, Hooknum: hook, Priority: at, Policy: &accept}}
}

func (c chain) with(table *nftables.Table, rules [][]expr.Any) chain {
	c.Table, c.rules = table, rules
	return c
}

// guard drops what a pod must not send to the host or through it.
func guard(pods string) [][]expr.Any {
	return [][]expr.Any{
		// Host ports on 127.0.0.1 need route_localnet on the pod's interface, which
		// would let the pod reach what the host serves on its loopback.
		rule(from(pods), within(destination, loopback4), verdict(expr.VerdictDrop)),
		// The source has to be routed back to where it came from: for both
		// families, and without a sysctl per interface as rp_filter needs it.
		rule(from(pods), sourceNotBehind(), verdict(expr.VerdictDrop)),
		// Router advertisements and redirects would change the host's routes.
		rule(from(pods), icmp6(134), verdict(expr.VerdictDrop)),
		rule(from(pods), icmp6(137), verdict(expr.VerdictDrop)),
	}
}

// hostports sends a packet for the host on to the pod that published its port.
func hostports() [][]expr.Any {
	port := func(n uint32) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: slot(n)},
			&expr.Payload{DestRegister: slot(n + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		}
	}
	return [][]expr.Any{
		rule(family(true), load(destination, true, slot(0)), port(1), dnat(setIP4, true)),
		rule(family(true), port(0), dnat(setPort4, true)),
		rule(family(false), load(destination, false, slot(0)), port(4), dnat(setIP6, false)),
		rule(family(false), port(0), dnat(setPort6, false)),
	}
}

// postrouting gives packets the host's address where the pod's would not do.
func postrouting(pods string, pools []pool, direct []netip.Prefix) [][]expr.Any {
	masquerade := []expr.Any{&expr.Masq{FullyRandom: true}} // collisions of ports drop packets otherwise
	both := func(v4 bool, set string) []expr.Any {
		second := slot(1)
		if !v4 {
			second = slot(4)
		}
		return slices.Concat(family(v4), load(source, v4, slot(0)), load(destination, v4, second),
			[]expr.Any{&expr.Lookup{SourceRegister: slot(0), SetName: set}})
	}
	rules := [][]expr.Any{
		rule(to(pods), within(source, loopback4), masquerade),
		rule(both(true, setSelf4), masquerade),
		rule(both(false, setSelf6), masquerade),
	}
	for _, p := range direct {
		rules = append(rules, rule(from(pods), within(destination, p), verdict(expr.VerdictReturn)))
	}
	for _, p := range pools {
		rules = append(rules, rule(from(pods), notTo(pods), outside(destination, p.prefix), masquerade))
	}
	return rules
}

func declareSets(table *nftables.Table) []*nftables.Set {
	concat := nftables.MustConcatSetType
	ip4, ip6, proto, port := nftables.TypeIPAddr, nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: table, Name: name, KeyType: key, Concatenation: true}
	}
	mapping := func(name string, key, data nftables.SetDatatype) *nftables.Set {
		s := set(name, key)
		s.IsMap, s.DataType = true, data
		return s
	}
	return []*nftables.Set{
		mapping(setIP4, concat(ip4, proto, port), concat(ip4, port)),
		mapping(setPort4, concat(proto, port), concat(ip4, port)),
		set(setSelf4, concat(ip4, ip4)),
		mapping(setIP6, concat(ip6, proto, port), concat(ip6, port)),
		mapping(setPort6, concat(proto, port), concat(ip6, port)),
		set(setSelf6, concat(ip6, ip6)),
	}
}

// What follows are the words of which rules are made.

type field bool

const (
	source      field = false
	destination field = true
)

func rule(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func jump(name string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}
}

// from, to and notTo match interfaces whose names begin with prefix: comparing
// fewer bytes than a name has is how nft says "prefix*".
func from(prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg}, is([]byte(prefix))}
}

func to(prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg}, is([]byte(prefix))}
}

func notTo(prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg}, isNot([]byte(prefix))}
}

func is(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data}
}

func isNot(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: data}
}

func family(v4 bool) []expr.Any {
	proto := byte(unix.NFPROTO_IPV6)
	if v4 {
		proto = unix.NFPROTO_IPV4
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, is([]byte{proto})}
}

// load reads an address out of the IP header.
func load(f field, v4 bool, into uint32) []expr.Any {
	at := map[bool]map[field]uint32{true: {source: 12, destination: 16}, false: {source: 8, destination: 24}}[v4][f]
	size := uint32(16)
	if v4 {
		size = 4
	}
	return []expr.Any{&expr.Payload{DestRegister: into, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: size}}
}

func within(f field, p netip.Prefix) []expr.Any {
	return append(masked(f, p), is(p.Addr().AsSlice()))
}

func outside(f field, p netip.Prefix) []expr.Any {
	return append(masked(f, p), isNot(p.Addr().AsSlice()))
}

func masked(f field, p netip.Prefix) []expr.Any {
	size := p.Addr().BitLen() / 8
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return slices.Concat(family(p.Addr().Is4()), load(f, p.Addr().Is4(), reg), []expr.Any{
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(size), Mask: mask, Xor: make([]byte, size)}})
}

func toHost() []expr.Any {
	local := []byte{unix.RTN_LOCAL, 0, 0, 0} // the host's byte order: both architectures are little-endian
	return []expr.Any{&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}, is(local)}
}

// sourceNotBehind matches when no route to the source leads out of the interface
// by which the packet came. The kernel makes the exceptions that neighbour
// discovery needs.
func sourceNotBehind() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
		is(make([]byte, 4)),
	}
}

func icmp6(kind byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, is([]byte{unix.IPPROTO_ICMPV6}),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, is([]byte{kind}),
	}
}

// dnat rewrites the destination to what the map has for the key in slot 0.
func dnat(set string, v4 bool) []expr.Any {
	fam, port := uint32(unix.NFPROTO_IPV6), slot(4)
	if v4 {
		fam, port = unix.NFPROTO_IPV4, slot(1)
	}
	return []expr.Any{
		&expr.Lookup{SourceRegister: slot(0), DestRegister: slot(0), IsDestRegSet: true, SetName: set},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: slot(0), RegAddrMax: slot(0),
			RegProtoMin: port, RegProtoMax: port, Specified: true},
	}
}

// A filter is the nftables socket in the calling thread's namespace. It stays
// open: closing one waits until the kernel has freed what it deleted, some 10 ms.
type filter struct {
	conn *nftables.Conn
	sock *netlink.Conn
}

// transactionLimit bounds what is sent to nftables at once and what it answers, which
// has each message that failed in it, in bytes: the socket's own bounds have room for
// some 1,400 ports. Memory is taken for what there is alone.
const transactionLimit = 32 << 20

// do calls fn, which has kernelTimeout for all it asks of the kernel. After an
// error the socket is not used again: answers may be left in it.
func (f *filter) do(fn func(*nftables.Conn) error) error {
	if f.conn == nil {
		conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(s *netlink.Conn) error {
			f.sock = s
			return errors.Join(s.SetWriteBuffer(transactionLimit), s.SetReadBuffer(transactionLimit))
		}))
		if err != nil {
			return fmt.Errorf("cannot open nftables socket: %w", err)
		}
		f.conn = conn
	}
	err := f.sock.SetDeadline(time.Now().Add(kernelTimeout))
	if err == nil {
		err = fn(f.conn)
	}
	if err != nil {
		f.close()
	}
	return err
}

func (f *filter) close() {
	if f.conn != nil {
		_ = f.conn.CloseLasting()
		f.conn = nil
	}
}

// apply makes the kernel's table equal to the declared one with these elements.
// Where rules differ all is replaced in one transaction: no packet ever sees half
// a table. Twice is a no-op.
func (r *ruleset) apply(conn *nftables.Conn, elements map[string][]nftables.SetElement) error {
	have, err := r.read(conn)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(have, r.chains) || (r.shown != nil && reflect.DeepEqual(have, r.shown)) {
		return r.applyElements(conn, elements)
	}
	if err := r.replace(conn, elements); err != nil {
		return fmt.Errorf("cannot apply nftables table %s: %w", r.table.Name, err)
	}
	r.shown, err = r.read(conn)
	return err
}

func (r *ruleset) replace(conn *nftables.Conn, elements map[string][]nftables.SetElement) error {
	conn.AddTable(r.table) // so that the next line never fails
	conn.DelTable(r.table)
	conn.AddTable(r.table)
	for _, set := range r.sets {
		if err := conn.AddSet(set, nil); err != nil {
			return err
		}
		if err := change(conn, set, nil, elements[set.Name]); err != nil {
			return err
		}
	}
	for _, c := range r.chains {
		conn.AddChain(c.Chain)
	}
	for _, c := range r.chains {
		for _, exprs := range c.rules {
			conn.AddRule(&nftables.Rule{Table: r.table, Chain: c.Chain, Exprs: exprs})
		}
	}
	return conn.Flush()
}

// read returns the chains that the kernel has, in the order of declaration; nil
// without a table.
func (r *ruleset) read(conn *nftables.Conn) ([]chain, error) {
	if exists, err := r.exists(conn); !exists || err != nil {
		return nil, err
	}
	found, err := conn.ListChainsOfTableFamily(r.table.Family)
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables chains: %w", err)
	}
	var out []chain
	for _, c := range found {
		if c.Table.Name != r.table.Name {
			continue
		}
		c.Table = r.table // the kernel's has counters
		rules, err := conn.GetRules(r.table, c)
		if err != nil {
			return nil, fmt.Errorf("cannot list nftables rules: %w", err)
		}
		one := chain{Chain: c}
		for _, rule := range rules {
			one.rules = append(one.rules, rule.Exprs)
		}
		out = append(out, one)
	}
	return out, nil
}

func (r *ruleset) exists(conn *nftables.Conn) (bool, error) {
	tables, err := conn.ListTablesOfFamily(r.table.Family)
	if err != nil {
		return false, fmt.Errorf("cannot list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == r.table.Name }), nil
}

// remove takes the table away; that there is none is no error.
func (r *ruleset) remove(conn *nftables.Conn) error {
	conn.DelTable(r.table)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove nftables table %s: %w", r.table.Name, err)
	}
	return nil
}
