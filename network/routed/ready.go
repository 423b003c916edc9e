package routed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/cri-box/cri-box/network"
)

// A kernelTable is what is known of the ruleset that the kernel holds.
type kernelTable struct {
	nft        filter
	nf         *socket
	forwarding forwarding
	known      bool   // the table is as declared, with all leases, at the generation
	applied    uint32 // the generation
}

// Ready implements network.Network. It mends what somebody else took away: the
// table (nft flush ruleset) and forwarding. It waits for the queue for at most a
// second.
func (n *Network) Ready() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second,
		errors.New("the network queue has been busy for a second"))
	defer cancel()
	return n.queue.do(ctx, n.prepare)
}

// prepare makes host and table what they have to be; twice is a no-op.
func (n *Network) prepare() error {
	n.measure()
	return n.ensure()
}

// measure finds the MTU that the next pod gets.
func (n *Network) measure() {
	if n.mtu = n.fixedMTU; n.mtu == 0 {
		n.mtu = uplinkMTU(n.rt)
	}
	if slices.ContainsFunc(n.pools, func(p pool) bool { return p.prefix.Addr().Is6() }) {
		n.mtu = max(n.mtu, minMTU6) // with less the kernel has no IPv6 on an interface
	}
}

// ensure is what each pod may rely on, at three system calls where all is as it was.
func (n *Network) ensure() error {
	if err := n.forwarding.ensure(n.pools, linkPrefix(n.instance)); err != nil {
		return err
	}
	before, err := n.generation()
	if err == nil && n.known && before == n.applied {
		return nil
	}
	n.known = false
	if err := n.nft.do(func(conn *nftables.Conn) error { return n.rules.apply(conn, allElements(n.leases.all())) }); err != nil {
		return err
	}
	// Unless somebody changed rules meanwhile, this was about to be true.
	if after, e := n.generation(); err == nil && e == nil && after == before {
		n.known, n.applied = true, after
	}
	return nil
}

// change makes a transaction of ours. Where nobody else made one beside it, the
// table is known to be what it was, and this.
func (n *Network) change(do func(*nftables.Conn) error) error {
	before, err := n.generation()
	n.known = n.known && err == nil && before == n.applied
	if err := n.nft.do(do); err != nil {
		n.known = false
		return err
	}
	after, err := n.generation()
	n.known = n.known && err == nil && (after == before || after == before+1)
	n.applied = after
	return nil
}

// generation is the number of nftables' transactions in this namespace, whoever
// made them (NFT_MSG_GETGEN).
func (n *Network) generation() (generation uint32, err error) {
	const message = unix.NFNL_SUBSYS_NFTABLES << 8
	b := &batch{}
	b.add(message|unix.NFT_MSG_GETGEN, 0, make([]byte, 4), "ask for the generation of %s", "nftables") // struct nfgenmsg
	found := false
	err = n.nf.do(b, func(kind uint16, data []byte) {
		if kind == message|unix.NFT_MSG_NEWGEN && len(data) >= 4 {
			id := attribute(data[4:], unix.NFTA_GEN_ID)
			if found = len(id) == 4; found {
				generation = binary.BigEndian.Uint32(id)
			}
		}
	})
	if err == nil && !found {
		err = errors.New("cannot read the generation of nftables: the kernel does not tell it")
	}
	return generation, err
}

// notReady says of an error that it is why no pod may start.
func notReady(err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", network.ErrNotReady, err)
	}
	return nil
}
