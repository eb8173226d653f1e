package zookeeper

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

// The client library knows neither reads of many nodes in one request nor
// watches of a whole tree, and a large answer ends its connection. Such requests
// are sent on its connection, below it, and their answers are taken out of what
// it reads.

const (
	opExists    = 3
	opGetData   = 4
	opChildren2 = 12
	opMultiRead = 22  // since ZooKeeper 3.6
	opAddWatch  = 106 // since ZooKeeper 3.6
	opError     = -1

	recursive = 1 // the mode of a watch of a node and all that comes below it

	// xidDirect is the largest xid of a direct request. The library's are not
	// negative, but for those of its own events.
	xidDirect = -1000

	readBuffer = 16 << 10
)

// directRequest is a request that the library does not send.
type directRequest struct {
	op   int32
	body []byte
}

// reply is the answer to a direct request.
type reply struct {
	code int32
	body []byte
	size int // of an answer that is too large to be read
}

// batch is direct requests that were sent together.
type batch struct {
	replies []reply
	left    int
	err     error
	done    chan struct{}
}

// place is that of a request in its batch.
type place struct {
	*batch
	i int
}

// ask sends requests, and returns their answers, which are in the same order as
// all others on the connection.
func (w *wire) ask(ctx context.Context, requests []directRequest) ([]reply, error) {
	all := &batch{replies: make([]reply, len(requests)), left: len(requests), done: make(chan struct{})}
	var p []byte
	w.mu.Lock()
	if w.fault != nil {
		defer w.mu.Unlock()
		return nil, w.fault
	}
	if w.asked == nil {
		w.asked, w.xid = map[int32]place{}, xidDirect
	}
	for i, r := range requests {
		w.asked[w.xid] = place{all, i}
		p = binary.BigEndian.AppendUint32(p, uint32(2*frameHead+len(r.body))) //nolint:gosec // G115: a few hundred KiB
		p = binary.BigEndian.AppendUint32(p, uint32(w.xid))                   //nolint:gosec // G115: as the protocol has it
		p = binary.BigEndian.AppendUint32(p, uint32(r.op))                    //nolint:gosec // G115: as the protocol has it
		p = append(p, r.body...)
		if w.xid--; w.xid > 0 {
			w.xid = xidDirect // it went below the smallest
		}
	}
	if w.owing.IsZero() {
		w.owing = dcs.Now()
	}
	w.mu.Unlock()
	if _, err := w.Conn.Write(p); err != nil { // net.Conn writes a slice in one piece
		w.failed(err)
	}
	select {
	case <-all.done:
		return all.replies, all.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// takeDirect takes the next frame out of the stream, if it answers a direct
// request.
func (w *wire) takeDirect() (taken bool, err error) {
	head, err := w.in.Peek(2 * frameHead)
	if err != nil {
		return false, err
	}
	size := int(binary.BigEndian.Uint32(head))
	xid := int32(binary.BigEndian.Uint32(head[frameHead:])) //nolint:gosec // G115: as the protocol has it
	if xid > xidDirect || size < headerSize {
		w.pass = frameHead + size
		return false, nil
	}
	if _, err := w.in.Discard(frameHead); err != nil {
		return false, err
	}
	if size > w.most {
		head := make([]byte, headerSize)
		if _, err := io.ReadFull(w.in, head); err != nil {
			return false, err
		}
		if _, err := io.CopyN(io.Discard, w.in, int64(size-headerSize)); err != nil {
			return false, err
		}
		w.frame(head)
		w.answered(xid, reply{size: size})
		return true, nil
	}
	p := make([]byte, size)
	if _, err := io.ReadFull(w.in, p); err != nil {
		return false, err
	}
	w.frame(p[:min(size, mostHead)])
	code := int32(binary.BigEndian.Uint32(p[headerSize-frameHead:])) //nolint:gosec // G115: as the protocol has it
	w.answered(xid, reply{code: code, body: p[headerSize:]})
	return true, nil
}

func (w *wire) answered(xid int32, r reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.asked[xid]
	if !ok {
		return
	}
	delete(w.asked, xid)
	at.replies[at.i] = r
	if at.left--; at.left == 0 {
		close(at.done)
	}
}

// abandon ends all direct requests that have no answer yet. Under w.mu.
func (w *wire) abandon(err error) {
	for xid, at := range w.asked {
		delete(w.asked, xid)
		if at.err == nil {
			at.err = err
			close(at.done)
		}
	}
}

// Close implements [net.Conn].
func (w *wire) Close() error {
	err := w.Conn.Close()
	w.failed(errBroken)
	return err
}

func newReadBuffer(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, readBuffer) }

// errorOf is the error that a server's code means, nil for none.
func errorOf(code int32) error {
	switch code {
	case 0:
		return nil
	case -101:
		return zk.ErrNoNode
	case -102:
		return zk.ErrNoAuth
	case -112:
		return zk.ErrSessionExpired
	case -115:
		return zk.ErrAuthFailed
	case -118:
		return zk.ErrSessionMoved
	}
	return fmt.Errorf("ZooKeeper's error code %d", code)
}

// unknownTo reports whether code is that of a server that does not know the
// request: one before ZooKeeper 3.6, or one with another kind of watches.
func unknownTo(code int32) bool { return code == -5 || code == -6 }

// encoder writes what requests are made of.
type encoder []byte

func (e *encoder) int(v int32) { *e = binary.BigEndian.AppendUint32(*e, uint32(v)) } //nolint:gosec // G115: as the protocol has it

func (e *encoder) bool(v bool) {
	if v {
		*e = append(*e, 1)
		return
	}
	*e = append(*e, 0)
}

func (e *encoder) string(s string) {
	e.int(int32(len(s))) //nolint:gosec // G115: a path
	*e = append(*e, s...)
}

// pathRequest is a request about one node: a read, or a look for its children.
func pathRequest(op int32, path string, watch bool) directRequest {
	var e encoder
	e.string(path)
	e.bool(watch)
	return directRequest{op, e}
}

// watchRequest asks for all events at and below path.
func watchRequest(path string) directRequest {
	var e encoder
	e.string(path)
	e.int(recursive)
	return directRequest{opAddWatch, e}
}

// multiReadRequest reads paths.
func multiReadRequest(paths []string) directRequest {
	var e encoder
	head := func(op int32, done bool) {
		e.int(op)
		e.bool(done)
		e.int(opError)
	}
	for _, path := range paths {
		head(opGetData, false)
		e.string(path)
		e.bool(false)
	}
	head(opError, true)
	return directRequest{opMultiRead, e}
}

// errShort is an answer that ends too early.
var errShort = errors.New("an answer of ZooKeeper's ends too early")

// decoder reads what answers are made of. After the first fault it returns zero
// values.
type decoder struct {
	p   []byte
	err error
}

func (d *decoder) next(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.p) {
		d.p, d.err = nil, errShort
		return make([]byte, 8) // for the largest number
	}
	p := d.p[:n:n]
	d.p = d.p[n:]
	return p
}

func (d *decoder) int() int32  { return int32(binary.BigEndian.Uint32(d.next(4))) } //nolint:gosec // G115: as the protocol has it
func (d *decoder) long() int64 { return int64(binary.BigEndian.Uint64(d.next(8))) } //nolint:gosec // G115: as the protocol has it

func (d *decoder) bytes() []byte {
	n := d.int()
	if n < 0 || d.err != nil {
		return nil
	}
	p := d.next(int(n))
	if d.err != nil {
		return nil
	}
	return p
}

func (d *decoder) stat() zk.Stat {
	return zk.Stat{
		Czxid: d.long(), Mzxid: d.long(), Ctime: d.long(), Mtime: d.long(),
		Version: d.int(), Cversion: d.int(), Aversion: d.int(), EphemeralOwner: d.long(),
		DataLength: d.int(), NumChildren: d.int(), Pzxid: d.long(),
	}
}

// node reads the answer to a read.
func (d *decoder) node() node {
	// Copied, or one node that stays would keep all that was read with it.
	value := append([]byte{}, d.bytes()...)
	return node{there: true, value: value, stat: d.stat()}
}

// names reads the answer to a look for children.
func (d *decoder) names() (names []string, stat zk.Stat) {
	for n := d.int(); n > 0 && d.err == nil; n-- {
		names = append(names, string(d.bytes()))
	}
	return names, d.stat()
}

// nodes reads the answer to the reads of n nodes.
func (d *decoder) nodes(n int) ([]node, error) {
	out := make([]node, n)
	for i := range out {
		op := d.int()
		d.next(1 + 4) // whether it is the last, and an error that is repeated behind
		if op == opGetData {
			out[i] = d.node()
			continue
		}
		err := errorOf(d.int())
		if d.err != nil {
			return nil, d.err
		}
		if !errors.Is(err, zk.ErrNoNode) {
			return nil, err
		}
	}
	return out, d.err
}

var errTooLarge = errors.New("the answer is too large")

// multiNodes are the n nodes that were read in one request.
func multiNodes(r reply, n int) ([]node, error) {
	if r.size > 0 {
		return nil, errTooLarge
	}
	if err := errorOf(r.code); err != nil {
		return nil, err
	}
	d := decoder{p: r.body}
	return d.nodes(n)
}

// nodesOf are the nodes that were read one by one.
func nodesOf(replies []reply) ([]node, error) {
	out := make([]node, len(replies))
	for i, r := range replies {
		err := errorOf(r.code)
		if errors.Is(err, zk.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, err
		}
		d := decoder{p: r.body}
		if out[i] = d.node(); d.err != nil {
			return nil, d.err
		}
	}
	return out, nil
}

// listingsOf are what is below paths; nil is of a node that is not there.
func (b *Backend) listingsOf(addr string, paths []string, replies []reply) ([]*listing, error) {
	out := make([]*listing, len(paths))
	for i, r := range replies {
		if r.size > 0 {
			return nil, &remote.Failure{Endpoint: addr, Kind: dcs.ErrUnavailable, Err: fmt.Errorf(
				"the list of the nodes below %s has %d bytes, above Config.MaxBuffer (max_buffer) of %d: raise it, or keep fewer nodes there", paths[i], r.size, b.c.MaxBuffer)}
		}
		err := errorOf(r.code)
		if errors.Is(err, zk.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, err
		}
		d := decoder{p: r.body}
		names, stat := d.names()
		if d.err != nil {
			return nil, d.err
		}
		out[i] = &listing{stat: stat, paths: b.children(paths[i], names)}
		out[i].stat.Cversion -= int32(len(names) - len(out[i].paths)) //nolint:gosec // G115: as if bookkeeping had never been there; few
	}
	return out, nil
}
