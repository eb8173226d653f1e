package disktest

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Kind names an operation.
type Kind string

// The operations of disk.FS and disk.File. MakeDir consists of Mkdir and
// SyncDir.
const (
	Mkdir     Kind = "mkdir"
	List      Kind = "list"
	Open      Kind = "open"
	Create    Kind = "create"
	Rename    Kind = "rename"
	Remove    Kind = "remove"
	SyncDir   Kind = "syncdir"
	Lock      Kind = "lock"
	Size      Kind = "size"
	Read      Kind = "read"
	Write     Kind = "write"
	Sync      Kind = "sync"
	Truncate  Kind = "truncate"
	Allocate  Kind = "allocate"
	DropCache Kind = "dropcache"
	Close     Kind = "close"
)

// Changes returns the operations that change the state after a crash.
func Changes() []Kind {
	return []Kind{Mkdir, Create, Rename, Remove, SyncDir, Lock, Write, Sync, Truncate, Allocate}
}

// Op is one operation.
type Op struct {
	Kind Kind
	Path string // as the caller gave it
	To   string // of a rename
	Off  int64  // of a read or a write; the size of a Truncate or an Allocate
	Len  int
}

// ErrHalted is returned by every operation of an FS after Halt.
var ErrHalted = errors.New("the machine has no power")

// Match chooses operations. It is called once for each operation, before it
// and in order.
type Match func(op Op) bool

// Any matches operations of these kinds, or all if there is none.
func Any(kinds ...Kind) Match {
	return func(op Op) bool { return len(kinds) == 0 || slices.Contains(kinds, op.Kind) }
}

// At matches operations on path and on everything below it.
func At(path string, kinds ...Kind) Match {
	path = filepath.Clean(path)
	return func(op Op) bool {
		below := func(p string) bool {
			p = filepath.Clean(p)
			return p == path || strings.HasPrefix(p, path+string(filepath.Separator))
		}
		return Any(kinds...)(op) && (below(op.Path) || op.To != "" && below(op.To))
	}
}

// Nth matches the k-th of the operations that m matches, counted from 1. It
// matches once.
func Nth(k int, m Match) Match {
	var seen atomic.Int64
	return func(op Op) bool { return m(op) && seen.Add(1) == int64(k) }
}

// hook is a function to call before each operation.
type hook struct{ before func(op Op) error }

// Inject calls before ahead of each operation, until stop is called. An error
// that it returns is the error of the operation. It may block; it must not use
// the file system.
func (f *FS) Inject(before func(op Op) error) (stop func()) {
	h := &hook{before}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks = append(f.hooks, h)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.hooks = slices.DeleteFunc(slices.Clone(f.hooks), func(other *hook) bool { return other == h })
	}
}

// Fail lets the operations that m matches fail with err, until stop is called.
func (f *FS) Fail(m Match, err error) (stop func()) {
	return f.Inject(func(op Op) error {
		if m(op) {
			return err
		}
		return nil
	})
}

// Block lets the operations that m matches hang until release is called. Then
// they are done. One that hangs returns ErrHalted after Halt.
func (f *FS) Block(m Match) (release func()) {
	released := make(chan struct{})
	stop := f.Inject(func(op Op) error {
		if !m(op) {
			return nil
		}
		select {
		case <-released:
			return nil
		case <-f.halted:
			return ErrHalted
		}
	})
	return sync.OnceFunc(func() {
		stop()
		close(released)
	})
}

// HaltAt calls Halt just before the first operation that m matches.
func (f *FS) HaltAt(m Match) (stop func()) {
	return f.Inject(func(op Op) error {
		if m(op) {
			f.Halt()
		}
		return nil
	})
}

// Halt takes the power away: each operation fails with ErrHalted from now on,
// those that hang as well. Crash and Kill return the same as before.
func (f *FS) Halt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isHalted() {
		close(f.halted)
	}
}

func (f *FS) isHalted() bool {
	select {
	case <-f.halted:
		return true
	default:
		return false
	}
}

// Count returns how many operations of these kinds there were, or of all.
func (f *FS) Count(kinds ...Kind) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for kind, count := range f.counts {
		if len(kinds) == 0 || slices.Contains(kinds, kind) {
			n += count
		}
	}
	return n
}

type recording struct{ ops []Op }

// Record begins a list of operations, which stop ends and returns.
func (f *FS) Record() (stop func() []Op) {
	r := &recording{}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records = append(f.records, r)
	return func() []Op {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.records = slices.DeleteFunc(f.records, func(other *recording) bool { return other == r })
		return r.ops
	}
}

// do counts op, lets the hooks decide, and does it.
func (f *FS) do(op Op, effect func() error) error {
	err := f.before(op)
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.isHalted() {
			err = ErrHalted
		} else {
			err = effect()
		}
	}
	if err != nil {
		return &fs.PathError{Op: string(op.Kind), Path: op.Path, Err: err}
	}
	return nil
}

func (f *FS) before(op Op) error {
	f.mu.Lock()
	f.counts[op.Kind]++
	for _, r := range f.records {
		r.ops = append(r.ops, op)
	}
	hooks := f.hooks
	f.mu.Unlock()
	for _, h := range hooks {
		if err := h.before(op); err != nil {
			return err
		}
	}
	return nil
}
