package api

import (
	"math/bits"
	"sync"
)

const (
	firstBuffer = 4 << 10
	// kept is how many sizes of buffer are used again: 4 KiB, and twice that up to
	// 128. A message of the default limit fits the largest; longer bodies are rare
	// enough to be left to the garbage collector.
	kept = 6
)

// buffers recycles body and answer buffers. What is kept beyond the request is
// copied out of them first. There is a pool for each size, so that a request which
// has sent one byte does not hold the buffer of a long one.
type buffers struct{ pools [kept]sync.Pool }

// get returns an empty buffer of 4 KiB, or a little more.
func (p *buffers) get() *[]byte { return p.ofSize(0) }

// ofSize returns an empty buffer of at least 4 KiB << size.
func (p *buffers) ofSize(size int) *[]byte {
	if size < kept {
		if b, ok := p.pools[size].Get().(*[]byte); ok {
			return b
		}
	}
	b := make([]byte, 0, firstBuffer<<size)
	return &b
}

// grow returns a buffer of the next size with the same content, and takes b back.
func (p *buffers) grow(b *[]byte) *[]byte {
	next := p.ofSize(sizeOf(*b) + 1)
	*next = append(*next, *b...)
	p.put(b)
	return next
}

func (p *buffers) put(b *[]byte) {
	if size := sizeOf(*b); size < kept {
		*b = (*b)[:0]
		p.pools[size].Put(b)
	}
}

// sizeOf is the largest size that b has room for. append may have made it larger
// than it was when it came from the pool.
func sizeOf(b []byte) int { return bits.Len(uint(cap(b)/firstBuffer)) - 1 }
