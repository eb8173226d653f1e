package zookeeper

import (
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
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
type known struct{ backend.Cache[state] }

// learn notes a transaction of ours: the states of the keys that it wrote, and
// the versions that it gave to epoch nodes. What was known under the version
// before is known under the new one, of all keys but those that it wrote. Both
// happen in one step, because ZooKeeper would accept the gone state of a
// re-created key under the new epoch: both incarnations begin at version 0.
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

// made remembers which parents and epoch nodes are there. Nobody takes them
// away in the ordinary course; where one is missing all the same, the
// transaction is refused and they are looked at again.
type made struct{ backend.Cache[bool] }

// missing are those of paths that are not known to be there.
func (m *made) missing(paths []string) []string {
	var out []string
	for _, p := range paths {
		if there, _ := m.Of(p); !there {
			out = append(out, p)
		}
	}
	return out
}
