package transport

import "sync"

const (
	// maxAnswering bounds the requests of one node that are being answered at
	// once; more are refused unexecuted.
	maxAnswering = 4096
	// maxAnsweringBytes bounds their bodies together.
	maxAnsweringBytes = 32 << 20
	// maxWaitingBytes bounds the large replies to one node that are not written
	// yet: four of the largest.
	maxWaitingBytes = 4 * maxReply
	// smallReply is the largest reply that is not counted among them.
	smallReply = 64 << 10
	// maxNodeConns bounds the established connections of one node. A node dials
	// about six; those that a broken network left behind count too.
	maxNodeConns = 16
)

// load counts what the other nodes ask of this one, over all connections of a
// node together.
type load struct {
	mostConns int

	mu sync.Mutex
	of map[string]*nodeLoad // by the node's ID; nodes that are not in Peers share ""
}

// nodeLoad is one node's part of a load.
type nodeLoad struct {
	conns   int // accepted and established
	calls   int // being answered
	bytes   int // the bodies of calls
	waiting int // bytes of large replies that are not written
}

func newLoad(mostConns int) *load {
	return &load{mostConns: mostConns, of: map[string]*nodeLoad{}}
}

// connect counts one more connection of node id, or reports that there are
// enough.
func (l *load) connect(id string) bool {
	return l.change(id, func(n *nodeLoad) bool {
		if n.conns >= l.mostConns {
			return false
		}
		n.conns++
		return true
	})
}

// disconnect counts one connection less. Its calls may end later.
func (l *load) disconnect(id string) {
	l.change(id, func(n *nodeLoad) bool {
		n.conns--
		return true
	})
}

// begin counts one more call of node id, or reports that it has enough in work.
func (l *load) begin(id string, size int) bool {
	return l.change(id, func(n *nodeLoad) bool {
		if n.calls >= maxAnswering || n.bytes+size > maxAnsweringBytes {
			return false
		}
		n.calls++
		n.bytes += size
		return true
	})
}

// end counts one call less.
func (l *load) end(id string, size int) {
	l.change(id, func(n *nodeLoad) bool {
		n.calls--
		n.bytes -= size
		return true
	})
}

// reply counts a reply to node id that is to be written, or reports that too much
// is waiting. replied takes it out again.
func (l *load) reply(id string, size int) bool {
	return l.change(id, func(n *nodeLoad) bool {
		if n.waiting+size > maxWaitingBytes {
			return false
		}
		n.waiting += size
		return true
	})
}

// replied counts a reply less.
func (l *load) replied(id string, size int) {
	l.change(id, func(n *nodeLoad) bool {
		n.waiting -= size
		return true
	})
}

// change calls f with the part of node id, which is forgotten when it is empty.
func (l *load) change(id string, f func(*nodeLoad) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of[id]
	if n == nil {
		n = &nodeLoad{}
		l.of[id] = n
	}
	ok := f(n)
	if *n == (nodeLoad{}) {
		delete(l.of, id)
	}
	return ok
}
