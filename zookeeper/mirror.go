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

// mirror is a copy of the tree at and below one node at one server, made in a
// session of its own. It reads again every node that an event names, and no
// other. ZooKeeper sends an answer after the events of all changes that precede
// it. A mirror without events left to process is therefore the tree at the
// moment of the latest answer.
type mirror struct {
	b    *Backend
	s    *session
	addr string
	top  string
	op   request // of the calls that read

	nodes   view
	below   map[string]map[string]bool // the children of each of nodes
	changed map[string]bool            // nodes that changed since the last call of taken
	size    batchSize
	started bool   // events were requested
	heard   func() // called for every answer; may be nil
	// single is set if the server cannot watch a whole tree. Each node is then
	// watched by its reads, and each parent's children are listed again when
	// one is created or deleted.
	single bool

	mu     sync.Mutex
	values map[string]bool // nodes to read again
	lists  map[string]bool // nodes whose children to list again
	news   chan struct{}
}

// newMirror makes a mirror of the nodes at and below top. The caller must end
// the mirror's session. over may be nil; it is called when that session has
// ended.
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

// event records the nodes that must be read again. It is called before any
// later answer is delivered.
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

// takePending returns the nodes to read next, and removes them from the pending
// ones.
func (m *mirror) takePending() (values, lists []string) {
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

// some returns paths of all, at most as many as are read at once.
func some(all map[string]bool) (paths []string) {
	for path := range all {
		if paths = append(paths, path); len(paths) == mostNodes {
			break
		}
	}
	return paths
}

// idle reports whether no read is pending.
func (m *mirror) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.values)+len(m.lists) == 0
}

// addPending records nodes to read again, and nodes whose children to list
// again.
func (m *mirror) addPending(values, lists []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, path := range values {
		m.values[path] = true
	}
	for _, path := range lists {
		m.lists[path] = true
	}
}

// read makes the pending reads until none is left, and returns the revision
// that the mirror then has. Before that it calls first, unless that is nil.
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
			return struct{}{}, m.refresh(one)
		})
		cancel()
		if err != nil {
			return 0, err
		}
		// The order matters: the events before the latest answer have been
		// recorded when the mirror is found idle.
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

// refresh makes some of the pending reads.
func (m *mirror) refresh(ctx context.Context) error {
	w := m.s.connection()
	if w == nil {
		return &backend.Failure{Err: errBroken, Refused: true, Blame: true}
	}
	if !m.started && !m.single {
		if err := m.watch(ctx, w); err != nil {
			return err
		}
	}
	m.started = true
	values, lists := m.takePending()
	if len(values)+len(lists) == 0 {
		return nil
	}
	err := m.readThem(ctx, w, values, lists)
	if err != nil {
		m.addPending(values, lists) // a call that is denied is repeated with newer credentials
	}
	return err
}

// readThem reads values and lists, and stores either all of them or none.
func (m *mirror) readThem(ctx context.Context, w *trackedConn, values, lists []string) error {
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

// watch requests the events of the whole tree.
func (m *mirror) watch(ctx context.Context, w *trackedConn) error {
	replies, err := w.ask(ctx, []directRequest{watchRequest(m.top)})
	if err != nil {
		return err
	}
	if unknownTo(replies[0].code) {
		return m.b.noteOlder(m.addr)
	}
	return errorOf(replies[0].code)
}

// requests returns the requests for values and lists. The caller must ignore
// the answers to the first skip of them.
func (m *mirror) requests(values, lists []string) (all []directRequest, skip int) {
	if !m.single && len(values) > 0 {
		all = append(all, multiReadRequest(values))
	}
	if m.single && slices.Contains(values, m.top) {
		// This request watches for the node's creation if there is no node.
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

// nodesOf returns the nodes that were read. If all of them together were too
// large, it makes them pending again, to be read in smaller parts.
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
		m.addPending(paths, nil)
		return nil, nil
	}
	if errors.Is(err, errTooLarge) {
		return nil, m.b.tooLarge(m.addr, "the value of", paths[0], reads[0].size)
	}
	return nodes, err
}

// take stores the nodes that were read. If one was created or deleted, that may
// decide whether its parent is a key. The parent is read again, because it may
// have been read in between.
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
	m.addPending(again, branches)
}

// mayBeKey reports whether the parent of other nodes may be a key, or become
// one.
func (m *mirror) mayBeKey(path string) bool {
	n, ok := m.nodes[path]
	return ok && path != m.b.root && !n.parent()
}

// list stores children that were listed. A node that was not there then may be
// there now. It is read again, and then listed again if it has children.
func (m *mirror) list(paths []string, listings []*listing) {
	for i, l := range listings {
		if l == nil {
			m.drop(paths[i])
			m.addPending(paths[i:i+1], nil)
			continue
		}
		m.listed(paths[i], l)
	}
}

// listed stores the children of a node.
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
	m.addPending(fresh, nil)
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

// drop removes a node and all nodes below it, and their cached states. A write
// that waited for their deletion need not read them first.
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

// taken returns the changes of the entries since its last call, except for
// those that tree already holds.
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

// up returns the parent of path.
func up(path string) string { return path[:strings.LastIndexByte(path, '/')] }

// batchSize is the number of nodes that are read in one request, chosen so that
// the answer has a moderate size.
type batchSize struct{ n int } // 0: not known yet

const (
	firstBatch   = 256
	fewestNodes  = 1
	mostNodes    = 1024
	answerSize   = 512 << 10
	mostRequests = 256 << 10 // bytes of one request, well below jute.maxbuffer's default
)

// first returns the first of paths, as many as are read together.
func (z *batchSize) first(paths []string) []string {
	n, size := 0, 0
	for n < len(paths) && n < cmp.Or(z.n, firstBatch) && size < mostRequests {
		size += len(paths[n]) + headerSize
		n++
	}
	return paths[:n]
}

// learn adjusts the size to the answers to the reads of n nodes.
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

// older reports whether the server is known to be older than ZooKeeper 3.6.
func (b *Backend) older(addr string) bool {
	older, _ := b.servers.Of(addr)
	return older
}

var errOlder = errors.New("the server is older than ZooKeeper 3.6, or has another implementation of watches; reading it node by node")

// noteOlder records that a server does not support the requests of ZooKeeper
// 3.6. The server has ended the session.
func (b *Backend) noteOlder(addr string) error {
	b.servers.Note(addr, true)
	return &backend.Failure{Endpoint: addr, Err: errOlder, Refused: true}
}
