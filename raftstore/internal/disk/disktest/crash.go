package disktest

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Crash returns the file system as it is found after the machine lost power
// now. Of the changes that are not durable, seed 0 keeps nothing and seed 1 keeps all; any
// other seed chooses. The same seed chooses the same. Nobody holds a lock or has
// a file open in it, and it has no faults.
//
// f goes on as it was. Call Halt first where something still uses it.
func (f *FS) Crash(seed uint64) *FS {
	c := f.Kill()
	c.settle(newChooser(seed))
	return c
}

// Kill returns the file system as it is found after the process was killed now
// and the machine went on: everything is there, and changes that are not durable may
// still be lost in a Crash. It is Crash in all other ways.
func (f *FS) Kill() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	copies := map[*node]*node{}
	c := newFS(f.root.clone(copies))
	for _, p := range f.pending {
		unsynced := map[*node]bool{}
		for dir := range p.unsynced {
			unsynced[dir.clone(copies)] = true
		}
		c.pending = append(c.pending, &nameChange{
			n:        p.n.clone(copies),
			from:     entry{p.from.dir.clone(copies), p.from.name},
			to:       entry{p.to.dir.clone(copies), p.to.name},
			unsynced: unsynced,
		})
	}
	return c
}

// clone returns the copy of n, and makes it and those of everything below it.
func (n *node) clone(copies map[*node]*node) *node {
	if n == nil {
		return nil
	}
	if c := copies[n]; c != nil {
		return c
	}
	c := &node{isDir: n.isDir, content: n.content.clone()}
	copies[n] = c
	if n.isDir {
		c.entries, c.stable = map[string]*node{}, map[string]*node{}
	}
	for name, e := range n.entries {
		c.entries[name] = e.clone(copies)
	}
	for name, e := range n.stable {
		c.stable[name] = e.clone(copies)
	}
	return c
}

// settle decides about all that is not durable.
func (f *FS) settle(keep chooser) {
	for _, c := range f.pending {
		if len(c.unsynced) > 0 && !keep.name() {
			continue
		}
		if c.to.dir != nil {
			f.forget(c.n)
		}
		c.apply(func(dir *node) map[string]*node { return dir.stable })
	}
	f.pending = nil
	f.root.settle(keep, map[*node]bool{})
}

// forget takes the name of n away, wherever that is: a change of its name
// before this one may have been lost.
func (f *FS) forget(n *node) {
	dirs := map[*node]bool{}
	var visit func(dir *node)
	visit = func(dir *node) {
		if dir == nil || !dir.isDir || dirs[dir] {
			return
		}
		dirs[dir] = true
		for _, names := range []map[string]*node{dir.entries, dir.stable} {
			for _, e := range names {
				visit(e)
			}
		}
		maps.DeleteFunc(dir.stable, func(_ string, e *node) bool { return e == n })
	}
	visit(f.root)
	for _, c := range f.pending {
		visit(c.from.dir)
		visit(c.to.dir)
		visit(c.n)
	}
}

func (n *node) settle(keep chooser, seen map[*node]bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	n.locked = false
	if !n.isDir {
		n.disk = n.replay(keep)
		n.data, n.pending = slices.Clone(n.disk), nil
		return
	}
	n.entries = maps.Clone(n.stable)
	for _, name := range slices.Sorted(maps.Keys(n.stable)) {
		n.stable[name].settle(keep, seen)
	}
}

// chooser decides which changes a crash keeps.
type chooser interface {
	name() bool
	size() bool
	sector() bool
}

type keepAll struct{}

func (keepAll) name() bool   { return true }
func (keepAll) size() bool   { return true }
func (keepAll) sector() bool { return true }

type keepNone struct{}

func (keepNone) name() bool   { return false }
func (keepNone) size() bool   { return false }
func (keepNone) sector() bool { return false }

// keepSome keeps names, sizes and sectors with a probability for each.
type keepSome struct {
	random                *rand.Rand
	names, sizes, sectors float64
}

func newChooser(seed uint64) chooser {
	switch seed {
	case 0:
		return keepNone{}
	case 1:
		return keepAll{}
	}
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // G404: the same seed must choose the same
	// All, none and half of a kind find more than a random share does.
	share := func() float64 { return []float64{0, 0.5, 0.5, 1, random.Float64()}[random.IntN(5)] }
	return &keepSome{random, share(), share(), share()}
}

func (k *keepSome) name() bool   { return k.random.Float64() < k.names }
func (k *keepSome) size() bool   { return k.random.Float64() < k.sizes }
func (k *keepSome) sector() bool { return k.random.Float64() < k.sectors }
