package disktest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// Sector is the number of bytes that a crash keeps or loses together.
const Sector = 512

// content is the content of a file.
type content struct {
	data    []byte       // as reads return it
	disk    []byte       // as it is durable
	pending []dataChange // in order; made durable by the next Sync
}

// dataChange is a write or a change of the size.
type dataChange struct {
	sectors map[int64][]byte // whole sectors, by number
	size    int64            // of the file afterwards
	cut     bool             // the file is not longer than size afterwards
}

// resize returns data with another length. New bytes are zeros.
func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

// sectors returns a copy of the sectors that hold data[from:to].
func sectors(data []byte, from, to int64) map[int64][]byte {
	all := map[int64][]byte{}
	for s := from / Sector; s*Sector < to; s++ {
		sector := make([]byte, Sector)
		copy(sector, data[s*Sector:])
		all[s] = sector
	}
	return all
}

// write writes p at off, as far as processes see it.
func (c *content) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	c.data = resize(c.data, max(end, int64(len(c.data))))
	copy(c.data[off:], p)
	c.pending = append(c.pending, dataChange{sectors: sectors(c.data, off, end), size: int64(len(c.data))})
}

// truncate changes the size.
func (c *content) truncate(size int64) {
	c.pending = append(c.pending, dataChange{size: size, cut: size < int64(len(c.data))})
	c.data = resize(c.data, size)
}

// sync makes everything durable that was not lost to a failed one.
func (c *content) sync() {
	c.disk = c.change(c.disk, keepAll{})
	c.pending = nil
}

// failSync marks the writes as clean, though they are not on the disk. The
// sizes still wait.
func (c *content) failSync() {
	for i := range c.pending {
		c.pending[i].sectors = nil
	}
}

// dropCache lets reads see the disk where nothing waits to be written.
func (c *content) dropCache() {
	size := int64(len(c.data))
	c.data = resize(slices.Clone(c.replay(keepAll{})), size)
}

// replay returns the durable content with those of the pending changes that
// keep chooses.
func (c *content) replay(keep chooser) []byte { return c.change(slices.Clone(c.disk), keep) }

// change makes those of the pending changes in data that keep chooses.
func (c *content) change(data []byte, keep chooser) []byte {
	for _, change := range c.pending {
		if size := change.size; (change.cut || size > int64(len(data))) && keep.size() {
			data = resize(data, size)
		}
		for _, s := range slices.Sorted(maps.Keys(change.sectors)) {
			if keep.sector() && s*Sector < int64(len(data)) {
				copy(data[s*Sector:], change.sectors[s])
			}
		}
	}
	return data
}

func (c *content) clone() content {
	return content{data: bytes.Clone(c.data), disk: bytes.Clone(c.disk), pending: slices.Clone(c.pending)}
}

// file is an open file.
type file struct {
	fs     *FS
	path   string
	node   *node
	closed bool
}

var _ disk.File = (*file)(nil)

// handle returns an open file of n.
func (f *FS) handle(path string, n *node) *file {
	h := &file{fs: f, path: path, node: n}
	f.open[h] = struct{}{}
	return h
}

// do does an operation of the file, unless it is closed.
func (h *file) do(op Op, f func() error) error {
	op.Path = h.path
	return h.fs.do(op, func() error {
		if h.closed {
			return fs.ErrClosed
		}
		return f()
	})
}

// Size implements disk.File.
func (h *file) Size() (size int64, err error) {
	err = h.do(Op{Kind: Size}, func() error {
		size = int64(len(h.node.data))
		return nil
	})
	return size, err
}

// ReadAt implements disk.File.
func (h *file) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	end := false
	err = h.do(Op{Kind: Read, Off: off, Len: len(p)}, func() error {
		if off < int64(len(h.node.data)) {
			n = copy(p, h.node.data[off:])
		}
		end = n < len(p)
		return nil
	})
	if err == nil && end {
		err = io.EOF
	}
	return n, err
}

// WriteAt implements disk.File. One that fails has written the first half.
func (h *file) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	err = h.do(Op{Kind: Write, Off: off, Len: len(p)}, func() error {
		h.node.write(p, off)
		n = len(p)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrClosed) && !errors.Is(err, ErrHalted) {
		h.fs.mu.Lock()
		defer h.fs.mu.Unlock()
		n = len(p) / 2
		h.node.write(p[:n], off)
	}
	return n, err
}

// Sync implements disk.File. One that fails marks the writes as clean:
// reads still see them, and they are not on the disk, also if a later Sync succeeds.
func (h *file) Sync() error {
	err := h.do(Op{Kind: Sync}, func() error {
		h.node.sync()
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrClosed) && !errors.Is(err, ErrHalted) {
		h.fs.mu.Lock()
		defer h.fs.mu.Unlock()
		h.node.failSync()
	}
	return err
}

// Truncate implements disk.File.
func (h *file) Truncate(size int64) error {
	return h.do(Op{Kind: Truncate, Off: size}, func() error {
		if size < 0 {
			return fs.ErrInvalid
		}
		h.node.truncate(size)
		return nil
	})
}

// Allocate implements disk.File.
func (h *file) Allocate(size int64) error {
	return h.do(Op{Kind: Allocate, Off: size}, func() error {
		if size > int64(len(h.node.data)) {
			h.node.truncate(size)
		}
		return nil
	})
}

// DropCache implements disk.File.
func (h *file) DropCache() {
	_ = h.do(Op{Kind: DropCache}, func() error {
		h.node.dropCache()
		return nil
	})
}

// Close implements disk.File. The file is closed even if it fails.
func (h *file) Close() error {
	err := h.do(Op{Kind: Close}, func() error { return nil })
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	h.closed = true
	delete(h.fs.open, h)
	return err
}
