package zookeeper

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// mirror is the tree at and below one node at one server, in a session of its
// own: every node that an event names is read again, and nothing else is.
// ZooKeeper sends an answer after the events of all that was done before it, so
// that a tree of which no event is left to be read is that of the latest answer's
// moment.
type mirror struct {
	b    *Backend
	s    *session
	addr string
	top  string
	op   request // for the calls that read

	nodes   view
	below   map[string]map[string]bool // the nodes directly below each of nodes
	changed map[string]bool            // nodes that changed since they were taken
	size    batchSize
	started bool   // events were asked for
	heard   func() // is called for every answer; may be nil
	// single: the server has no watch of a whole tree. Each node is watched by
	// its reads, and each parent's children are listed again when one comes or
	// goes.
	single bool

	mu     sync.Mutex
	values map[string]bool // nodes to be read again
	lists  map[string]bool // nodes whose children are to be listed again
	news   chan struct{}
}

// newMirror makes a mirror of what is at and below top. Its session must be
// ended, and over, which may be nil, is called when it has.
func (b *Backend) newMirror(addr, top string, op request, over func()) (*mirror, error) {
	m := &mirror{
		b: b, addr: addr, top: top, op: op, single: b.older(addr),
		nodes: view{}, below: map[string]map[string]bool{}, changed: map[string]bool{},
		values: map[string]bool{top: true}, lists: map[string]bool{}, news: make(chan struct{}, 1),
	}
	var err error
	m.s, err = b.newSession(sessionOptions{ttl: b.linkTTL(), once: true, event: m.event, over: over})
	return m, err
}

// event notes what has to be read again. It is called before any later answer
// is.
func (m *mirror) event(ev zk.Event) {
	if m.b.hidden(ev.Path) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch ev.Type {
	case zk.EventNodeChildrenChanged:
		m.lists[ev.Path] = true
	case zk.EventNodeCreated, zk.EventNodeDeleted, zk.EventNodeDataChanged:
		m.values[ev.Path] = true
	default:
		return
	}
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// due takes what has to be read next.
func (m *mirror) due() (values, lists []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	values = m.size.first(some(m.values))
	for _, path := range values {
		delete(m.values, path)
	}
	lists = m.size.first(some(m.lists))
	for _, path := range lists {
		delete(m.lists, path)
	}
	return values, lists
}

// some are paths of all, no more than are read at once.
func some(all map[string]bool) (paths []string) {
	for path := range all {
		if paths = append(paths, path); len(paths) == mostNodes {
			break
		}
	}
	return paths
}

// idle reports whether nothing has to be read.
func (m *mirror) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.values)+len(m.lists) == 0
}

// owe notes what has to be read again: a node, or the children of one.
func (m *mirror) owe(values, lists []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, path := range values {
		m.values[path] = true
	}
	for _, path := range lists {
		m.lists[path] = true
	}
}

// read reads what has to be, until nothing has, and returns the revision that
// the mirror has then. first is asked before.
func (m *mirror) read(ctx context.Context, op request, first func(c *zk.Conn) error) (dcs.Revision, error) {
	limit := m.b.pool.AttemptTimeout(endpoint.Read, m.b.c.Timing.RetryTimeout, 0)
	for {
		one, cancel := context.WithTimeout(ctx, limit)
		_, w, err := call(one, m.s, m.addr, op, func(c *zk.Conn) (struct{}, error) {
			if first != nil {
				if err := first(c); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, m.refresh(one, c)
		})
		cancel()
		if err != nil {
			return 0, err
		}
		// In this order: the events before the latest answer have been noted.
		rev := w.latest()
		if m.heard != nil {
			m.heard()
		}
		if m.idle() {
			return rev, nil
		}
		op, first = m.op, nil
	}
}

// refresh reads some of what has to be.
func (m *mirror) refresh(ctx context.Context, c *zk.Conn) error {
	w, err := m.s.wireOf(c)
	if err != nil {
		return err
	}
	if !m.started && !m.single {
		if err := m.watch(ctx, w); err != nil {
			return err
		}
	}
	m.started = true
	values, lists := m.due()
	if len(values)+len(lists) == 0 {
		return nil
	}
	requests, skip := m.requests(values, lists)
	replies, err := w.ask(ctx, requests)
	if err != nil {
		return err
	}
	reads, rest := replies[skip:len(replies)-len(lists)], replies[len(replies)-len(lists):]
	listings, err := m.b.listingsOf(m.addr, lists, rest)
	if err != nil {
		return err
	}
	nodes, err := m.nodesOf(values, reads)
	if err != nil {
		return err
	}
	m.take(values, nodes)
	m.list(lists, listings)
	return nil
}

// watch asks for the events of the whole tree.
func (m *mirror) watch(ctx context.Context, w *wire) error {
	replies, err := w.ask(ctx, []directRequest{watchRequest(m.top)})
	if err != nil {
		return err
	}
	if unknownTo(replies[0].code) {
		return m.b.noteOlder(m.addr)
	}
	return errorOf(replies[0].code)
}

// requests reads values and lists. The answers to the first skip of them say
// nothing.
func (m *mirror) requests(values, lists []string) (all []directRequest, skip int) {
	if !m.single && len(values) > 0 {
		all = append(all, multiReadRequest(values))
	}
	if m.single && slices.Contains(values, m.top) {
		// It watches for the node where there is none.
		all, skip = append(all, pathRequest(opExists, m.top, true)), 1
	}
	if m.single {
		for _, path := range values {
			all = append(all, pathRequest(opGetData, path, true))
		}
	}
	for _, path := range lists {
		all = append(all, pathRequest(opChildren2, path, m.single))
	}
	return all, skip
}

// nodesOf are the nodes that were read. Where all of them together were too
// large, they are read again, in smaller parts.
func (m *mirror) nodesOf(paths []string, reads []reply) ([]node, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	m.size.learn(len(paths), reads)
	if m.single {
		return nodesOf(reads)
	}
	nodes, err := multiNodes(reads[0], len(paths))
	if errors.Is(err, errTooLarge) && len(paths) > 1 {
		m.owe(paths, nil)
		return nil, nil
	}
	if errors.Is(err, errTooLarge) {
		return nil, m.b.tooLarge(m.addr, "the value of", paths[0], reads[0].size)
	}
	return nodes, err
}

// take takes what was read of nodes. Whether the parent of one that came or went
// is a key depends on that: it is read again, because it may have been read in
// between.
func (m *mirror) take(paths []string, nodes []node) {
	var moved, again, branches []string
	for i, now := range nodes {
		path := paths[i]
		old, had := m.nodes[path]
		fresh := !had || old.stat.Czxid != now.stat.Czxid
		if (fresh || !now.there) && path != m.top {
			moved = append(moved, path)
		}
		if !now.there {
			m.drop(path)
			continue
		}
		m.put(path, now)
		if m.single && now.branch() && (fresh || !old.branch()) || !m.single && now.stat.NumChildren > 0 && fresh {
			branches = append(branches, path)
		}
	}
	for _, path := range moved {
		if m.mayBeKey(up(path)) {
			again = append(again, up(path))
		}
	}
	m.owe(again, branches)
}

// mayBeKey reports whether the node above others may be a key, or become one.
func (m *mirror) mayBeKey(path string) bool {
	n, ok := m.nodes[path]
	return ok && path != m.b.root && !n.parent()
}

// list takes what was listed. A node that was not there then may be there now:
// its value says so, and then it is listed again.
func (m *mirror) list(paths []string, listings []*listing) {
	for i, l := range listings {
		if l == nil {
			m.drop(paths[i])
			m.owe(paths[i:i+1], nil)
			continue
		}
		m.listed(paths[i], l)
	}
}

// listed takes the children of a node.
func (m *mirror) listed(path string, l *listing) {
	if n, ok := m.nodes[path]; ok {
		n.stat = l.stat
		m.put(path, n)
	}
	now := make(map[string]bool, len(l.paths))
	var fresh []string
	for _, child := range l.paths {
		now[child] = true
		if _, ok := m.nodes[child]; !ok {
			fresh = append(fresh, child)
		}
	}
	for child := range m.below[path] {
		if !now[child] {
			m.drop(child)
		}
	}
	m.owe(fresh, nil)
}

func (m *mirror) put(path string, n node) {
	m.nodes[path], m.changed[path] = n, true
	if path == m.top {
		return
	}
	above := up(path)
	if m.below[above] == nil {
		m.below[above] = map[string]bool{}
	}
	m.below[above][path] = true
}

// drop takes a node out, and those below it. What was known of them is not true
// any more: a write that waits for their end need not look.
func (m *mirror) drop(path string) {
	for child := range m.below[path] {
		m.drop(child)
	}
	delete(m.below, path)
	if above := m.below[up(path)]; above != nil {
		delete(above, path)
	}
	if _, ok := m.nodes[path]; ok {
		delete(m.nodes, path)
		m.changed[path] = true
		m.b.known.Forget(m.b.key(path))
	}
}

// taken returns what changed in the entries since the last time, beside those
// that are in tree.
func (m *mirror) taken(tree func(key string) (dcs.Entry, bool)) (wrote []dcs.Entry, deleted []string) {
	for path := range m.changed {
		if path == m.b.root {
			continue
		}
		n, key := m.nodes[path], m.b.key(path)
		old, had := tree(key)
		switch {
		case !n.entry() && had:
			deleted = append(deleted, key)
		case n.entry() && !(had && old.Modified == revision(n.stat.Mzxid)):
			wrote = append(wrote, n.of(key))
		}
	}
	clear(m.changed)
	return wrote, deleted
}

// up is the node above path.
func up(path string) string { return path[:strings.LastIndexByte(path, '/')] }

// batchSize is how many nodes are read in one request: as many as make an answer
// of a moderate size.
type batchSize struct{ n int } // 0: nothing is known yet

const (
	firstBatch   = 256
	fewestNodes  = 1
	mostNodes    = 1024
	answerSize   = 512 << 10
	mostRequests = 256 << 10 // bytes of one request, well below jute.maxbuffer's default
)

// first returns the first of paths that are to be read together.
func (z *batchSize) first(paths []string) []string {
	n, size := 0, 0
	for n < len(paths) && n < cmp.Or(z.n, firstBatch) && size < mostRequests {
		size += len(paths[n]) + headerSize
		n++
	}
	return paths[:n]
}

// learn learns from the answers to the reads of n nodes.
func (z *batchSize) learn(n int, replies []reply) {
	if n == 0 {
		return
	}
	size := 0
	for _, r := range replies {
		size += len(r.body) + r.size
	}
	z.n = min(max(answerSize/(size/n+1), fewestNodes), mostNodes)
}

// older reports whether the server is known to be one before ZooKeeper 3.6.
func (b *Backend) older(addr string) bool {
	older, _ := b.servers.Of(addr)
	return older
}

var errOlder = errors.New("the server is older than ZooKeeper 3.6, or keeps watches in another way: it is read node by node")

// noteOlder notes that a server does not know our requests of ZooKeeper 3.6. It
// has ended the session.
func (b *Backend) noteOlder(addr string) error {
	b.servers.Note(addr, true)
	return &backend.Failure{Endpoint: addr, Err: errOlder, Refused: true}
}
