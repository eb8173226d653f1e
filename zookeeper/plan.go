package zookeeper

import (
	"context"
	"maps"
	"slices"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// plan is a transaction as a Multi. ZooKeeper compares a node's version, which
// restarts with every incarnation. So every creation also writes the epoch node
// of its key. Every comparison also compares the version that the epoch node
// had when the key's node was read.
type plan struct {
	b     *Backend
	r     attempt.Request
	whole dcs.Txn
	keys  []string         // all keys of the transaction
	seen  map[string]state // the cached states that were checked

	ops     []any
	parents []string         // parents to make
	epochs  map[string]int32 // versions of the epoch nodes to compare, by path
	bumps   map[string]bool  // epoch nodes to write
	writes  []wrote
	at      map[string]int // the index in ops of each epoch node's operation
}

// wrote is a write of the plan, kept to record the key's new state.
type wrote struct {
	w   dcs.Write
	set int // the index of the SetData in ops; -1 for a creation or deletion
}

// request describes the purpose of the plan.
func (p *plan) request() request {
	switch {
	case p.r.Marker.Create:
		return request{"Mark", p.keys}
	case len(p.r.Txn.If)+len(p.r.Txn.Then) == 0:
		return request{"Settle", p.keys}
	}
	return request{"Commit", p.keys}
}

// newPlan returns the plan of r, with the lease of the marker if r makes one.
func newPlan(b *Backend, r attempt.Request, lease dcs.LeaseID) *plan {
	return &plan{b: b, r: r, whole: r.Whole(lease), keys: backend.Keys(r)}
}

// prepare reads the states that the plan needs. If it returns entries, a
// condition does not hold according to the quorum.
func (p *plan) prepare(ctx context.Context, s *session, addr string) ([]dcs.Entry, error) {
	p.loadCached()
	keys := p.missing()
	if len(keys) == 0 {
		return nil, nil
	}
	if _, err := p.b.look(ctx, s, addr, request{"Read", keys}, false); err != nil {
		return nil, backend.NotSent(err)
	}
	if p.loadCached(); len(p.wrong()) == 0 {
		return nil, nil
	}
	entries, err := p.b.look(ctx, s, addr, p.request(), true) // this copy's answer, if a condition fails
	if err != nil {
		return nil, backend.NotSent(err)
	}
	if p.loadCached(); len(p.wrong()) == 0 {
		return nil, nil
	}
	return entries, nil
}

// loadCached copies the cached states once. Conditions and operations must use
// the same copy: a concurrent call, such as another copy of this one, may
// refresh the cache, and a newer version would pass a check that its revision
// fails.
func (p *plan) loadCached() {
	p.seen = map[string]state{}
	for _, key := range p.keys {
		if s, ok := p.b.known.Of(key); ok {
			p.seen[key] = s
		}
	}
}

// missing returns the keys that must be read.
func (p *plan) missing() []string {
	keys := p.wrong()
	conds := p.conds()
	for _, w := range p.whole.Then {
		is, conditional := conds[w.Key]
		_, known := p.seen[w.Key]
		_, epoch := p.b.made.Of(p.b.epochOf(w.Key))
		if !known && !(conditional && is == 0) || !epoch || len(p.b.made.missing(parents(p.b.path(w.Key)))) > 0 {
			keys = append(keys, w.Key)
		}
	}
	return backend.Unique(keys)
}

// wrong returns the keys whose condition does not hold by the cached state, or
// that have no cached state.
func (p *plan) wrong() []string {
	var out []string
	for _, c := range p.whole.If {
		s, known := p.seen[c.Key]
		if known && s.holds() != c.Is || !known && (c.Is != 0 || !p.puts(c.Key)) {
			out = append(out, c.Key)
		}
	}
	return out
}

func (p *plan) conds() map[string]dcs.Revision {
	out := map[string]dcs.Revision{}
	for _, c := range p.whole.If {
		out[c.Key] = c.Is
	}
	return out
}

func (p *plan) puts(key string) bool {
	return slices.ContainsFunc(p.whole.Then, func(w dcs.Write) bool { return w.Key == key && !w.Delete })
}

// build makes the operations, with the marker's first.
func (p *plan) build() {
	p.epochs, p.bumps, p.at = map[string]int32{}, map[string]bool{}, map[string]int{}
	b := p.b
	written := map[string]bool{}
	var rest []any
	for i, w := range p.whole.Then {
		written[w.Key] = true
		ops, set := p.write(w)
		if i == 0 && !p.r.Marker.Create {
			p.ops = append(p.ops, ops...)
			p.writes = append(p.writes, wrote{w, 0})
			continue
		}
		if set >= 0 {
			set += len(rest)
		}
		p.writes = append(p.writes, wrote{w, set})
		rest = append(rest, ops...)
	}
	for _, c := range p.whole.If {
		if !written[c.Key] {
			rest = append(rest, p.compare(c)...)
		}
	}
	paths := backend.Unique(append(slices.Collect(maps.Keys(p.epochs)), slices.Collect(maps.Keys(p.bumps))...))
	for _, path := range paths {
		p.under(path)
	}
	for _, path := range p.parents {
		p.ops = append(p.ops, &zk.CreateRequest{Path: path, Data: parentValue, Acl: b.c.acl})
	}
	for _, path := range paths {
		p.epoch(path)
	}
	for i := range p.writes {
		if i > 0 && p.writes[i].set >= 0 {
			p.writes[i].set += len(p.ops)
		}
	}
	p.ops = append(p.ops, rest...)
}

// epoch makes the operations that compare an epoch node, write it, or both, and
// create it if it does not exist.
func (p *plan) epoch(path string) {
	version, compared := p.epochs[path]
	if !compared {
		version = -1
	}
	if there, _ := p.b.made.Of(path); !there {
		p.ops = append(p.ops, &zk.CreateRequest{Path: path, Data: parentValue, Acl: p.b.c.acl})
		version = -1
	}
	p.at[path] = len(p.ops)
	if p.bumps[path] {
		p.ops = append(p.ops, &zk.SetDataRequest{Path: path, Data: parentValue, Version: version})
	} else {
		p.ops = append(p.ops, &zk.CheckVersionRequest{Path: path, Version: version})
	}
}

// create returns the operation that makes a key's node.
func (p *plan) create(key string, value []byte, ephemeral bool) any {
	path, flags := p.b.path(key), int32(0)
	if ephemeral {
		flags = zk.FlagEphemeral
	}
	p.under(path)
	return &zk.CreateRequest{Path: path, Data: value, Acl: p.b.c.acl, Flags: flags}
}

// under adds the parents of path that are known not to exist.
func (p *plan) under(path string) {
	for _, up := range parents(path) {
		if there, known := p.b.made.Of(up); !there && known && !slices.Contains(p.parents, up) {
			p.parents = append(p.parents, up)
		}
	}
}

// dependOn records the version of the epoch node that the plan must compare for
// key. Keys that share an epoch node use the version that was read first. A
// newer version would confirm a state that was read before that version.
func (p *plan) dependOn(key string, s state) {
	path := p.b.epochOf(key)
	if e, ok := p.epochs[path]; !ok || s.epoch < e {
		p.epochs[path] = s.epoch
	}
}

// compare returns the operations for a condition on a key that is not written.
func (p *plan) compare(c dcs.Cond) []any {
	s := p.seen[c.Key]
	path := p.b.path(c.Key)
	if s.there {
		p.dependOn(c.Key, s)
		return []any{&zk.CheckVersionRequest{Path: path, Version: s.version}}
	}
	return p.absent(c.Key)
}

// absent returns operations that prove that there is no node. ZooKeeper has no
// single operation for that.
func (p *plan) absent(key string) []any {
	return []any{p.create(key, nil, false), &zk.DeleteRequest{Path: p.b.path(key), Version: -1}}
}

// write returns the operations of one write, which depend on the key's cached
// state. set is the index of a SetData among them, or -1.
func (p *plan) write(w dcs.Write) (ops []any, set int) {
	s := p.seen[w.Key]
	path := p.b.path(w.Key)
	marker := w.Key == p.r.Marker.Key
	switch {
	case marker && !p.r.Marker.Create:
		// The name of a marker is never used again, so that its version
		// suffices.
		return []any{&zk.SetDataRequest{Path: path, Data: w.Value, Version: s.version}}, 0
	case w.Delete && s.entry:
		p.dependOn(w.Key, s)
		return []any{&zk.DeleteRequest{Path: path, Version: s.version}}, -1
	case w.Delete && s.there:
		p.dependOn(w.Key, s)
		return []any{&zk.CheckVersionRequest{Path: path, Version: s.version}}, -1
	case w.Delete:
		return p.absent(w.Key), -1
	case s.entry && s.lease == w.Lease:
		p.dependOn(w.Key, s)
		return []any{&zk.SetDataRequest{Path: path, Data: w.Value, Version: s.version}}, 0
	case s.there:
		p.dependOn(w.Key, s)
		ops = append(ops, &zk.DeleteRequest{Path: path, Version: s.version})
	}
	p.bumps[p.b.epochOf(w.Key)] = true
	return append(ops, p.create(w.Key, w.Value, w.Lease != "")), -1
}

// learn records the states that the transaction wrote, and returns its
// revision.
func (p *plan) learn(results []zk.MultiResponse) dcs.Revision {
	b := p.b
	var rev dcs.Revision
	for _, r := range results {
		if r.Stat != nil && r.Stat.Mzxid > 0 {
			rev = revision(r.Stat.Mzxid)
		}
	}
	for _, path := range p.parents {
		b.made.Note(path, true)
	}
	versions, moved := map[string]int32{}, map[string]int32{}
	for path, i := range p.at {
		b.made.Note(path, true)
		versions[path] = p.epochs[path]
		if p.bumps[path] && i < len(results) && results[i].Stat != nil {
			versions[path], moved[path] = results[i].Stat.Version, results[i].Stat.Version
		}
	}
	states := map[string]state{}
	for _, w := range p.writes {
		b.made.Forget(b.path(w.w.Key)) // it is no parent, but a key or nothing
		states[w.w.Key] = w.state(results, rev, versions[b.epochOf(w.w.Key)])
	}
	b.known.learn(moved, b.epochOf, states)
	return rev
}

// state returns the key's state after the write, according to the answer.
func (w wrote) state(results []zk.MultiResponse, rev dcs.Revision, epoch int32) state {
	switch {
	case w.w.Delete:
		return state{epoch: epoch}
	case w.set >= 0 && w.set < len(results) && results[w.set].Stat != nil:
		stat := results[w.set].Stat
		return state{
			there: true, entry: true, version: stat.Version, lease: w.w.Lease, epoch: epoch,
			created: revision(stat.Czxid), modified: revision(stat.Mzxid),
		}
	}
	return state{there: true, entry: true, created: rev, modified: rev, lease: w.w.Lease, epoch: epoch}
}
