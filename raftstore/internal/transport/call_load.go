package transport

import (
	"fmt"
	"sync"
)

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

	// maxClientConns bounds the established connections of clients, within half of
	// the process's descriptors.
	maxClientConns = 4096
	// maxClientAnswering and maxClientBytes bound the requests of one client that
	// are being answered, and maxClientWaiting the replies and messages to it that
	// are not written yet: room for one of the largest.
	maxClientAnswering = 1024
	maxClientBytes     = 8 << 20
	maxClientWaiting   = maxReply + 1<<20
	// maxClientsAnswering, maxClientsBytes and maxClientsWaiting bound those of all
	// clients together.
	maxClientsAnswering = 16384
	maxClientsBytes     = 64 << 20
	maxClientsWaiting   = 64 << 20
)

// load counts the requests of others to this node: other nodes, over all connections of a
// node together, or clients.
type load struct {
	each nodeLoad // the bounds of one owner
	all  nodeLoad // the bounds of all owners together; 0 is none
	// small is the largest reply that is not counted.
	small       int
	connections string // the bound of connections in words

	mu  sync.Mutex
	sum nodeLoad
	of  map[string]*nodeLoad // by the node's ID; nodes that are not in Peers share ""
}

// nodeLoad is one owner's part of a load.
type nodeLoad struct {
	conns   int // accepted and established
	calls   int // being answered
	bytes   int // the bodies of calls
	waiting int // bytes of replies that are not written
}

func newLoad(mostConns int) *load {
	return &load{
		each:  nodeLoad{conns: mostConns, calls: maxAnswering, bytes: maxAnsweringBytes, waiting: maxWaitingBytes},
		small: smallReply, connections: fmt.Sprintf("%d established connections of this node", mostConns),
		of: map[string]*nodeLoad{},
	}
}

// newClientLoad returns the bounds of clients for a process that may have that
// many descriptors; 0 is an unknown number. Their part is not the nodes'.
func newClientLoad(descriptors uint64) *load {
	most := maxClientConns
	if descriptors > 0 {
		most = int(min(descriptors/2, maxClientConns))
	}
	return &load{
		each:        nodeLoad{conns: 1, calls: maxClientAnswering, bytes: maxClientBytes, waiting: maxClientWaiting},
		all:         nodeLoad{conns: most, calls: maxClientsAnswering, bytes: maxClientsBytes, waiting: maxClientsWaiting},
		connections: fmt.Sprintf("%d established connections of clients", most),
		of:          map[string]*nodeLoad{},
	}
}

// connect counts one more connection of node id, or reports that there are
// enough.
func (l *load) connect(id string) bool { return l.take(id, nodeLoad{conns: 1}) }

// disconnect counts one connection less. Its calls may end later.
func (l *load) disconnect(id string) { l.give(id, nodeLoad{conns: 1}) }

// connected returns the number of connections.
func (l *load) connected() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum.conns
}

// begin counts one more call of node id, or reports that it has enough in work.
func (l *load) begin(id string, size int) bool { return l.take(id, nodeLoad{calls: 1, bytes: size}) }

// end counts one call less.
func (l *load) end(id string, size int) { l.give(id, nodeLoad{calls: 1, bytes: size}) }

// reply counts a reply to node id that is to be written, or reports that too much
// is waiting. replied takes it out again.
func (l *load) reply(id string, size int) bool { return l.take(id, nodeLoad{waiting: size}) }

// replied counts a reply less.
func (l *load) replied(id string, size int) { l.give(id, nodeLoad{waiting: size}) }

// take adds more to the part of node id, if that stays within the bounds.
func (l *load) take(id string, more nodeLoad) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, sum := nodeLoad{}, l.sum
	if known := l.of[id]; known != nil {
		n = *known
	}
	n.add(more, 1)
	sum.add(more, 1)
	if !n.within(l.each) || l.all != (nodeLoad{}) && !sum.within(l.all) {
		return false
	}
	l.sum = sum
	if known := l.of[id]; known != nil {
		*known = n
	} else {
		l.of[id] = &n
	}
	return true
}

// give takes less from the part of node id, which is forgotten when it is empty.
func (l *load) give(id string, less nodeLoad) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum.add(less, -1)
	n := l.of[id]
	if n.add(less, -1); *n == (nodeLoad{}) {
		delete(l.of, id)
	}
}

func (n *nodeLoad) add(o nodeLoad, sign int) {
	n.conns += sign * o.conns
	n.calls += sign * o.calls
	n.bytes += sign * o.bytes
	n.waiting += sign * o.waiting
}

func (n nodeLoad) within(most nodeLoad) bool {
	return n.conns <= most.conns && n.calls <= most.calls && n.bytes <= most.bytes && n.waiting <= most.waiting
}
