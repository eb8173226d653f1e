package zookeeper

import (
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// state is the last observed state of a key's node. A write is built on it.
// ZooKeeper refuses the write if the state has changed.
type state struct {
	there             bool // there is a node, which may be a parent only
	entry             bool
	version           int32
	created, modified dcs.Revision
	lease             dcs.LeaseID
	epoch             int32 // version of the key's epoch node, read before the node
}

func (n node) state(epoch int32) state {
	if !n.there {
		return state{epoch: epoch}
	}
	e := n.of("")
	return state{true, n.entry(), n.stat.Version, e.Created, e.Modified, e.Lease, epoch}
}

// holds returns the revision that a condition on Modified compares.
func (s state) holds() dcs.Revision {
	if !s.entry {
		return 0
	}
	return s.modified
}

// known caches the last observed states of the keys that were written.
type known struct{ backend.Cache[state] }

// learn records a transaction of this client: the states of the keys that it
// wrote, and the new versions of epoch nodes. A state that was cached under the
// previous version of an epoch node holds under the new one, except for the
// keys that the transaction wrote. Both happen in one step, because ZooKeeper
// would accept the old state of a re-created key under the new epoch: both
// incarnations begin at version 0.
func (k *known) learn(moved map[string]int32, epochOf func(key string) string, wrote map[string]state) {
	var change func(key string, s state) state
	if len(moved) > 0 {
		change = func(key string, s state) state {
			if to, ok := moved[epochOf(key)]; ok && s.epoch == to-1 {
				s.epoch = to
			}
			return s
		}
	}
	k.Learn(change, wrote)
}

// made caches which parents and epoch nodes exist. In normal operation no
// client deletes them. If one is missing all the same, the transaction is
// refused and they are read again.
type made struct{ backend.Cache[bool] }

// missing returns the paths that are not known to exist.
func (m *made) missing(paths []string) []string {
	var out []string
	for _, p := range paths {
		if there, _ := m.Of(p); !there {
			out = append(out, p)
		}
	}
	return out
}
