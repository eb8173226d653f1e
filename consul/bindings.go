package consul

import (
	"context"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// bindings holds the last observed state of the keys that were written. Entries are
// hints, because Consul refuses a write that is based on an outdated entry.
type bindings struct{ backend.Cache[binding] }

// A binding is the last observed state of a key. The zero value means that the key is
// absent.
type binding struct {
	created, modified dcs.Revision
	session           dcs.LeaseID
}

// forget drops the keys that a transaction wrote or may have written.
func (k *bindings) forget(t dcs.Txn) {
	for _, w := range t.Then {
		k.Forget(w.Key)
	}
}

// missing returns the keys that must be read before t is sent. These are the keys of
// puts without a lease that have no binding, and the keys whose binding disagrees with a
// condition of t. A put with a lease is sent without a binding if t has no condition on
// its key. The marker is never read. If t has the condition that a key is absent, missing
// records this as the binding of the key.
func (k *bindings) missing(t dcs.Txn) []string {
	var out []string
	for i, w := range t.Then {
		if i == 0 || w.Delete {
			continue
		}
		now, known := k.Of(w.Key)
		for _, c := range t.If {
			if c.Key != w.Key {
				continue
			}
			if c.Is == 0 {
				k.Note(w.Key, binding{})
				now, known = binding{}, true
			} else if now.modified != c.Is {
				known = false
			}
		}
		if !known && (w.Lease == "" || conditional(t, w.Key)) {
			out = append(out, w.Key)
		}
	}
	return out
}

// conditional reports whether t has a condition on key.
func conditional(t dcs.Txn, key string) bool {
	for _, c := range t.If {
		if c.Key == key {
			return true
		}
	}
	return false
}

// look reads keys at one endpoint and records their bindings.
func (b *Backend) look(ctx context.Context, c *conn, keys []string) ([]dcs.Entry, error) {
	entries, err := b.read(ctx, c, keys...)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		b.known.Note(k, binding{})
	}
	for _, e := range entries {
		b.known.Note(e.Key, binding{e.Created, e.Modified, e.Lease})
	}
	return entries, nil
}

// learn records the bindings of the keys that a transaction wrote. It returns the
// revision of the transaction, which is that of the marker.
func (b *Backend) learn(t dcs.Txn, results []*api.KVPair) dcs.Revision {
	var rev dcs.Revision
	created := map[string]dcs.Revision{}
	for _, p := range results {
		if p == nil || p.ModifyIndex == 0 {
			continue
		}
		key := strings.TrimPrefix(p.Key, b.root)
		created[key] = dcs.Revision(p.CreateIndex)
		if key == t.Then[0].Key {
			rev = dcs.Revision(p.ModifyIndex)
		}
	}
	for i, w := range t.Then {
		switch {
		case i == 0:
		case w.Delete:
			b.known.Note(w.Key, binding{})
		default:
			b.known.Note(w.Key, binding{created[w.Key], rev, w.Lease})
		}
	}
	return rev
}
