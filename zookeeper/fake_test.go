package zookeeper

import (
	"crypto/tls"
	"encoding/binary"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
)

// fakeServer is a server that grants sessions, confirms requests that change
// nothing, and has a tree. It keeps the tree's state at each zxid.
type fakeServer struct {
	t    *testing.T
	addr string
	old  bool // the server is older than ZooKeeper 3.6
	// read is called after each answer, under mu; may be nil.
	read func()

	mu       sync.Mutex
	l        net.Listener
	conns    map[net.Conn]bool
	accepted int // connections
	last     int64
	ended    int // sessions
	zxid     int64
	nodes    map[string]node
	history  map[int64]map[string]string // the values by path, at each zxid
	whole    map[net.Conn]string         // watches of all at and below a path
	data     map[string]map[net.Conn]bool
	lists    map[string]map[net.Conn]bool

	limit     int           // of connections; 0: none
	deny      func() bool   // whether a read of many nodes is denied, under mu; may be nil
	throttled bool          // all requests are refused because there are too many
	requests  map[int32]int // by operation
}

func newFakeServer(t *testing.T) *fakeServer {
	f := &fakeServer{
		t: t, addr: "127.0.0.1:0", conns: map[net.Conn]bool{}, zxid: 1,
		nodes: map[string]node{}, history: map[int64]map[string]string{1: {}}, whole: map[net.Conn]string{},
		data: map[string]map[net.Conn]bool{}, lists: map[string]map[net.Conn]bool{}, requests: map[int32]int{},
	}
	f.start()
	t.Cleanup(f.stop)
	return f
}

// start serves at the same address as before.
func (f *fakeServer) start() {
	l, err := net.Listen("tcp", f.addr)
	require.NoError(f.t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.l, f.addr = l, l.Addr().String()
	go f.accept(l)
}

// accept serves the connections to l until it is closed.
func (f *fakeServer) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		full := f.limit > 0 && len(f.conns) >= f.limit
		f.accepted++
		if full {
			c.Close()
		} else {
			f.conns[c] = true
			go f.serve(c)
		}
		f.mu.Unlock()
	}
}

// also serves at another address.
func (f *fakeServer) also() (addr string) { return f.listen(nil) }

// listen serves at another address, by TLS if conf is not nil.
func (f *fakeServer) listen(conf *tls.Config) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(f.t, err)
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	f.t.Cleanup(func() { l.Close() })
	go f.accept(l)
	return l.Addr().String()
}

// identity returns the identity in the tree below root.
func (f *fakeServer) identity(root string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.nodes["/"+root+"/"+identityKey].value)
}

// stop closes every connection, and accepts no others.
func (f *fakeServer) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault.CloseListener(f.l)
	for c := range f.conns {
		c.Close()
	}
	clear(f.conns)
}

// put writes a node, and creates it if it does not exist.
func (f *fakeServer) put(path string, value []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.putLocked(path, value)
}

func (f *fakeServer) putLocked(path string, value []byte) {
	f.zxid++
	n, had := f.nodes[path]
	n.there, n.value, n.stat.Mzxid = true, value, f.zxid
	event := zk.EventNodeDataChanged
	if had {
		n.stat.Version++
	} else {
		n.stat.Czxid, n.stat.Pzxid = f.zxid, f.zxid
		event = zk.EventNodeCreated
	}
	f.nodes[path] = n
	f.changed(path, event)
}

func (f *fakeServer) removeLocked(path string) {
	f.zxid++
	delete(f.nodes, path)
	f.changed(path, zk.EventNodeDeleted)
}

// changed records a change in the parent and the history, and sends the events.
func (f *fakeServer) changed(path string, event zk.EventType) {
	above := path[:strings.LastIndexByte(path, '/')]
	if n, ok := f.nodes[above]; ok && event != zk.EventNodeDataChanged {
		n.stat.Cversion++
		n.stat.Pzxid = f.zxid
		n.stat.NumChildren++
		if event == zk.EventNodeDeleted {
			n.stat.NumChildren -= 2
		}
		f.nodes[above] = n
	}
	values := map[string]string{}
	for p, n := range f.nodes {
		if n.entry() {
			values[p] = string(n.value)
		}
	}
	f.history[f.zxid] = values
	notified := map[net.Conn]bool{}
	for c, top := range f.whole {
		if path == top || strings.HasPrefix(path, top+"/") {
			notified[c] = true
		}
	}
	maps.Copy(notified, f.data[path])
	delete(f.data, path)
	for c := range notified {
		f.event(c, event, path)
	}
	if event != zk.EventNodeDataChanged {
		for c := range f.lists[above] {
			f.event(c, zk.EventNodeChildrenChanged, above)
		}
		delete(f.lists, above)
	}
}

func (f *fakeServer) event(c net.Conn, event zk.EventType, path string) {
	var e encoder
	e.int(int32(event))
	e.int(int32(zk.StateHasSession))
	e.string(path)
	_, _ = c.Write(answer(-1, 0, e...))
}

func (f *fakeServer) serve(c net.Conn) {
	defer func() {
		c.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.conns, c)
		delete(f.whole, c)
	}()
	body, err := readFrame(c)
	if err != nil {
		return
	}
	d := decoder{p: body}
	d.int()
	f.mu.Lock()
	older := d.long() > f.zxid
	f.mu.Unlock()
	if older {
		return // like a server whose data are older than the client's
	}
	g := granted{timeout: time.Duration(d.int()) * time.Millisecond, id: d.long()}
	if g.id == 0 {
		f.mu.Lock()
		f.last++
		g.id = f.last
		f.mu.Unlock()
	}
	grant := asking(g, 0)
	if _, err := c.Write(frame(append(grant[frameHead:frameHead+4:frameHead+4], grant[16:]...))); err != nil {
		return
	}
	for {
		body, err := readFrame(c)
		if err != nil {
			return
		}
		d := decoder{p: body}
		xid, op := d.int(), d.int()
		f.mu.Lock()
		code, reply := f.answer(c, op, &d)
		p := answer(xid, code, reply...)
		binary.BigEndian.PutUint64(p[2*frameHead:], uint64(f.zxid))
		_, err = c.Write(p)
		if f.read != nil {
			f.read()
		}
		f.mu.Unlock()
		if err != nil || op == opClose || code == codeUnimplemented {
			return
		}
	}
}

const (
	opCreate          = 1
	opSetAuth         = 100
	codeUnimplemented = -6
	codeThrottled     = -127
	codeNodeExists    = -110
)

func (f *fakeServer) answer(c net.Conn, op int32, d *decoder) (code int32, reply encoder) {
	f.requests[op]++
	if f.throttled && op != opClose {
		return codeThrottled, nil
	}
	switch op {
	case opMulti:
		if creates := f.creates(d); creates != nil {
			return 0, creates
		}
		return 0, encoder{0, 0, 0, 13, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff}
	case opClose:
		f.ended++
		return 0, nil
	case opSetAuth:
		return 0, nil
	case opMultiRead, opAddWatch:
		if f.old {
			return codeUnimplemented, nil
		}
		if op == opAddWatch {
			f.whole[c] = string(d.bytes())
			reply.int(0)
			return 0, reply
		}
		if f.deny != nil && f.deny() {
			return -102, nil // ZNOAUTH
		}
		return 0, f.multiRead(d)
	}
	path := string(d.bytes())
	n, ok := f.nodes[path]
	if d.next(1)[0] == 1 && (ok || op == opExists) {
		watches := f.data
		if op == opChildren2 {
			watches = f.lists
		}
		if watches[path] == nil {
			watches[path] = map[net.Conn]bool{}
		}
		watches[path][c] = true
	}
	if !ok {
		return codeNoNode, nil
	}
	switch op {
	case opGetData:
		reply.string(string(n.value))
	case opChildren2:
		names := f.below(path)
		reply.int(int32(len(names)))
		for _, name := range names {
			reply.string(name)
		}
	}
	reply.stat(n.stat)
	return 0, reply
}

// creates applies a transaction that only creates nodes, and returns nil for
// any other. It refuses the transaction at a node that exists.
func (f *fakeServer) creates(d *decoder) (reply encoder) {
	for d.int() == opCreate {
		d.next(1 + 4)
		path, value := string(d.bytes()), d.bytes()
		for range d.int() { // its ACL
			d.int()
			d.bytes()
			d.bytes()
		}
		d.int()
		if f.nodes[path].there {
			reply = nil
			reply.int(opError)
			reply.bool(false)
			reply.int(codeNodeExists)
			reply.int(codeNodeExists)
			break
		}
		f.putLocked(path, value)
		reply.int(opCreate)
		reply.bool(false)
		reply.int(0)
		reply.string(path)
	}
	if reply != nil {
		reply.int(opError)
		reply.bool(true)
		reply.int(opError)
	}
	return reply
}

func (f *fakeServer) below(path string) []string {
	var names []string
	for p := range f.nodes {
		if rest, ok := strings.CutPrefix(p, path+"/"); ok && !strings.Contains(rest, "/") {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names
}

func (f *fakeServer) multiRead(d *decoder) (reply encoder) {
	head := func(op, code int32, done bool) {
		reply.int(op)
		reply.bool(done)
		reply.int(code)
	}
	for d.int() == opGetData {
		d.next(1 + 4)
		n, ok := f.nodes[string(d.bytes())]
		d.next(1)
		if ok {
			head(opGetData, 0, false)
			reply.string(string(n.value))
			reply.stat(n.stat)
			continue
		}
		head(opError, codeNoNode, false)
		reply.int(codeNoNode)
	}
	head(opError, opError, true)
	return reply
}

func (e *encoder) long(v int64) { *e = binary.BigEndian.AppendUint64(*e, uint64(v)) }

func (e *encoder) stat(s zk.Stat) {
	for _, v := range []int64{s.Czxid, s.Mzxid, s.Ctime, s.Mtime} {
		e.long(v)
	}
	for _, v := range []int32{s.Version, s.Cversion, s.Aversion} {
		e.int(v)
	}
	e.long(s.EphemeralOwner)
	e.int(s.DataLength)
	e.int(s.NumChildren)
	e.long(s.Pzxid)
}
