package zookeeper

import (
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// state is what is known of a key's node: a write is built on it, and refused
// by ZooKeeper where it is not true any more.
type state struct {
	there             bool // a node, though it may be a parent only
	entry             bool
	version           int32
	created, modified dcs.Revision
	lease             dcs.LeaseID
	epoch             int32 // of the key's epoch node, read before
}

func (n node) state(epoch int32) state {
	if !n.there {
		return state{epoch: epoch}
	}
	e := n.of("")
	return state{true, n.entry(), n.stat.Version, e.Created, e.Modified, e.Lease, epoch}
}

// holds is the revision that a condition on Modified compares.
func (s state) holds() dcs.Revision {
	if !s.entry {
		return 0
	}
	return s.modified
}

// known remembers what was last seen of the keys that were written.
type known struct {
	mu  sync.Mutex
	all map[string]state
}

// mostKnown bounds the memory; all of it is dropped then.
const mostKnown = 1024

func (k *known) of(key string) (state, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.all[key]
	return s, ok
}

func (k *known) note(key string, s state) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil || len(k.all) >= mostKnown {
		k.all = map[string]state{}
	}
	k.all[key] = s
}

// moved notes that we moved an epoch node from one version to the next: what
// was known under the former is known under the latter.
func (k *known) moved(to int32, same func(key string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, s := range k.all {
		if s.epoch == to-1 && same(key) {
			s.epoch = to
			k.all[key] = s
		}
	}
}
