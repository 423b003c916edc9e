package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"slices"

	"go.etcd.io/bbolt"
)

// The form of a bbolt file: what stands where in a page, in bytes, as in its
// internal/common. Numbers are in the machine's order.
const (
	pageHeader   = 16 // id 8, type 2, count 2, pages that follow 4
	elementSize  = 16 // leaf: flags 4, place 4, key 4, value 4; branch: place 4, key 4, page 8
	bucketHeader = 16 // page 8, sequence 8; without a page its leaf follows
	metaSize     = 64 // magic 4, version 4, page size 4, flags 4, bucket 16, free list 8, pages 8, change 8, sum 8

	branchPage, leafPage, freePage = 0x01, 0x02, 0x10
	bucketFlag                     = 0x01
	countElsewhere                 = 0xffff // a free list's count is its first entry
	firstPage                      = 2      // after the two metas
)

// pageCheck reads a database page by page and says what is wrong with it, so that
// bbolt meets no page that cannot be used. bbolt's own Check runs in a goroutine of
// its own, where a place outside the memory map ends the process, and it follows
// pages in a circle without end.
type pageCheck struct {
	file io.ReaderAt
	size int64  // of a page
	seen []bool // by page
}

// checkPages checks a whole database that nobody writes to.
func checkPages(file io.ReaderAt, info *bbolt.Info, size int64) error {
	c := &pageCheck{file: file, size: int64(info.PageSize)}
	meta, err := c.meta()
	if err != nil {
		return err
	}
	root, free, pages := number(meta[16:]), number(meta[32:]), number(meta[40:])
	if pages < firstPage || pages > uint64(size/c.size) {
		return fmt.Errorf("it should have %d pages, the file ends before", pages)
	}
	c.seen = make([]bool, pages)
	c.seen[0], c.seen[1] = true, true
	if err := c.tree(root, nil, nil); err != nil {
		return err
	}
	if err := c.freeList(free); err != nil {
		return err
	}
	if at := slices.Index(c.seen, false); at >= 0 {
		return fmt.Errorf("page %d is neither used nor free", at)
	}
	return nil
}

// meta returns the later of the two metas that are whole.
func (c *pageCheck) meta() (meta []byte, err error) {
	for page := range int64(firstPage) {
		b := make([]byte, metaSize)
		if _, err := c.file.ReadAt(b, page*c.size+pageHeader); err != nil {
			return nil, err
		}
		sum := fnv.New64a()
		sum.Write(b[:metaSize-8])
		if sum.Sum64() == number(b[56:]) && (meta == nil || number(b[48:]) > number(meta[48:])) {
			meta = b
		}
	}
	if meta == nil {
		return nil, fmt.Errorf("it has no whole meta page")
	}
	return meta, nil
}

// take reads a page with those that belong to it; each may be used once.
func (c *pageCheck) take(id uint64) ([]byte, error) {
	if err := c.mark(id, 1); err != nil {
		return nil, err
	}
	b := make([]byte, c.size)
	if _, err := c.file.ReadAt(b, int64(id)*c.size); err != nil {
		return nil, err
	}
	if number(b) != id {
		return nil, fmt.Errorf("page %d is at the place of page %d", number(b), id)
	}
	more := uint64(binary.NativeEndian.Uint32(b[12:]))
	if err := c.mark(id+1, more); err != nil {
		return nil, err
	}
	b = append(b, make([]byte, int64(more)*c.size)...)
	_, err := c.file.ReadAt(b[c.size:], (int64(id)+1)*c.size)
	return b, err
}

// mark notes that pages are used.
func (c *pageCheck) mark(id, n uint64) error {
	for ; n > 0; id, n = id+1, n-1 {
		if id >= uint64(len(c.seen)) || c.seen[id] {
			return fmt.Errorf("page %d is not there or is used twice", id)
		}
		c.seen[id] = true
	}
	return nil
}

// tree checks a bucket's page and all below it, whose keys are from least on and
// before end; nil stands for no end.
func (c *pageCheck) tree(id uint64, least, end []byte) error {
	b, err := c.take(id)
	if err != nil {
		return err
	}
	keys, err := elements(b, least, end)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if pageType(b) == leafPage {
		return c.leaf(b)
	}
	for i, key := range keys {
		next := end
		if i+1 < len(keys) {
			next = keys[i+1]
		}
		if err := c.tree(number(b[pageHeader+i*elementSize+8:]), key, next); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks the buckets in a leaf.
func (c *pageCheck) leaf(b []byte) error {
	for i := range count(b) {
		flags, _, value, _ := element(b, i)
		if flags&bucketFlag == 0 {
			continue
		}
		if len(value) < bucketHeader {
			return fmt.Errorf("a bucket has no header")
		}
		err := error(nil)
		if page, inside := number(value), value[bucketHeader:]; page != 0 {
			err = c.tree(page, nil, nil)
		} else if len(inside) < pageHeader || pageType(inside) != leafPage {
			err = fmt.Errorf("a bucket has no page")
		} else if _, err = elements(inside, nil, nil); err == nil {
			err = c.leaf(inside)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freeList marks the pages that are free.
func (c *pageCheck) freeList(id uint64) error {
	b, err := c.take(id)
	if err != nil {
		return err
	}
	ids, n := b[pageHeader:], uint64(count(b))
	if n == countElsewhere {
		ids, n = ids[8:], number(ids)
	}
	if pageType(b) != freePage || n > uint64(len(ids)/8) {
		return fmt.Errorf("page %d is no list of free pages", id)
	}
	for i := range n {
		if err := c.mark(number(ids[i*8:]), 1); err != nil {
			return err
		}
	}
	return nil
}

// elements returns the keys of a leaf or branch, which lie within it and in order.
func elements(b []byte, least, end []byte) (keys [][]byte, err error) {
	n := count(b)
	if kind := pageType(b); kind != leafPage && (kind != branchPage || n == 0) || pageHeader+n*elementSize > len(b) {
		return nil, fmt.Errorf("it is neither a leaf nor a branch")
	}
	for i := range n {
		_, key, _, ok := element(b, i)
		if !ok {
			return nil, fmt.Errorf("element %d lies outside", i)
		}
		last := least
		if i > 0 {
			last = keys[i-1]
		}
		if order := bytes.Compare(last, key); order > 0 || order == 0 && i > 0 || end != nil && bytes.Compare(key, end) >= 0 {
			return nil, fmt.Errorf("element %d is out of order", i)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// element gives one element of a leaf or branch; ok says that it lies within the page.
func element(b []byte, i int) (flags uint32, key, value []byte, ok bool) {
	at := pageHeader + i*elementSize
	var n [4]uint64
	for j := range n {
		n[j] = uint64(binary.NativeEndian.Uint32(b[at+4*j:]))
	}
	if pageType(b) == branchPage {
		n = [4]uint64{0, n[0], n[1], 0}
	}
	rest := b[at:]
	if n[1]+n[2]+n[3] > uint64(len(rest)) {
		return 0, nil, nil, false
	}
	rest = rest[n[1]:]
	return uint32(n[0]), rest[:n[2]], rest[n[2] : n[2]+n[3]], true
}

func number(b []byte) uint64   { return binary.NativeEndian.Uint64(b) }
func pageType(b []byte) uint16 { return binary.NativeEndian.Uint16(b[8:]) }
func count(b []byte) int       { return int(binary.NativeEndian.Uint16(b[10:])) }
