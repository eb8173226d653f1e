package zookeeper

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// The client library supports neither reads of many nodes in one request nor
// watches of a whole tree, and it ends its connection at a large answer. Such
// requests are sent on its connection, below it, and their answers are removed
// from the stream that it reads.

const (
	opExists    = 3
	opGetData   = 4
	opChildren2 = 12
	opMultiRead = 22  // since ZooKeeper 3.6
	opAddWatch  = 106 // since ZooKeeper 3.6
	opError     = -1

	recursive = 1 // the mode of a watch of a node and all nodes below it

	// xidDirect is the largest xid of a direct request. The xids of the
	// library's requests are not negative, and those of its own events are
	// above xidDirect.
	xidDirect = -1000

	readBuffer = 16 << 10
)

// directRequest is a request that bypasses the library.
type directRequest struct {
	op   int32
	body []byte
}

// reply is the answer to a direct request.
type reply struct {
	code int32
	body []byte
	size int // of an answer that was too large to read
}

// batch is a group of direct requests that were sent together.
type batch struct {
	replies []reply
	left    int
	err     error
	done    chan struct{}
}

// place is the position of a request in its batch.
type place struct {
	*batch
	i int
}

// ask sends requests and returns their answers. The server sends them in the
// same order as all other answers on the connection.
func (w *trackedConn) ask(ctx context.Context, requests []directRequest) ([]reply, error) {
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
		p = binary.BigEndian.AppendUint32(p, uint32(2*frameHead+len(r.body)))
		p = binary.BigEndian.AppendUint32(p, uint32(w.xid))
		p = binary.BigEndian.AppendUint32(p, uint32(r.op))
		p = append(p, r.body...)
		if w.xid--; w.xid > 0 {
			w.xid = xidDirect // it overflowed
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

// takeDirect removes the next frame from the stream if it answers a direct
// request.
func (w *trackedConn) takeDirect() (taken bool, err error) {
	head, err := w.in.Peek(2 * frameHead)
	if err != nil {
		return false, err
	}
	size := int(binary.BigEndian.Uint32(head))
	xid := int32(binary.BigEndian.Uint32(head[frameHead:]))
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
	code := int32(binary.BigEndian.Uint32(p[headerSize-frameHead:]))
	w.answered(xid, reply{code: code, body: p[headerSize:]})
	return true, nil
}

func (w *trackedConn) answered(xid int32, r reply) {
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

// abandon fails all direct requests that have no answer yet. The caller must
// hold w.mu.
func (w *trackedConn) abandon(err error) {
	for xid, at := range w.asked {
		delete(w.asked, xid)
		if at.err == nil {
			at.err = err
			close(at.done)
		}
	}
}

// Close implements [net.Conn]. It sends no TLS alert, because it is called under a mutex
// and a server that does not read may keep the alert for seconds.
func (w *trackedConn) Close() error {
	c := w.Conn
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	err := c.Close()
	w.failed(errBroken)
	return err
}

func newReadBuffer(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, readBuffer) }

// errorOf returns the error for a server's code, and nil for success.
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
	case -127:
		return errThrottled
	}
	return fmt.Errorf("ZooKeeper returned error code %d", code)
}

// unknownTo reports whether code means that the server does not support the
// request: it is older than ZooKeeper 3.6, or has another implementation of
// watches.
func unknownTo(code int32) bool { return code == -5 || code == -6 }
