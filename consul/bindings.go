package consul

import (
	"context"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// bindings remembers what was last seen of the keys that were written: a write
// is built on it, and refused by Consul where it is not true any more.
type bindings struct{ backend.Cache[binding] }

// binding is what is known of a key; the zero value is that it is absent.
type binding struct {
	created, modified dcs.Revision
	session           dcs.LeaseID
}

// forget drops what a transaction wrote, or may have.
func (k *bindings) forget(t dcs.Txn) {
	for _, w := range t.Then {
		k.Forget(w.Key)
	}
}

// missing are the keys of plain puts of which nothing is known, and those of
// which the transaction itself knows better. A leased put is tried without
// knowledge, and the marker keeps what it has.
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

// look reads keys at one endpoint and notes what is known of them.
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

// learn notes what a transaction wrote, and returns its revision, which the
// marker's write has.
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
