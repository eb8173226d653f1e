package zookeeper

import (
	"bufio"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// trackedConn is one connection of a session, below the client library. The
// library reports neither the timeout that a server granted nor the zxid of an
// answer. trackedConn reads both from the stream.
type trackedConn struct {
	net.Conn
	addr  string
	quiet bool // discard the library's pings, which would renew the session

	reading frames        // used only by the goroutine in which the library reads
	in      *bufio.Reader // the same
	pass    int           // bytes left of the library's current frame
	most    int           // the size of the largest direct answer that is kept

	identity atomic.Pointer[string] // of the store, as read on this connection; nil: not read yet

	mu      sync.Mutex
	sent    dcs.Instant     // when the session was requested
	granted granted         // the answer to that
	zxid    int64           // the largest in any answer
	owing   dcs.Instant     // when a request was first sent after the last answer; zero: none
	fault   error           // why the connection ended
	multi   chan struct{}   // closed when the next transaction was sent; nil: no call waits
	asked   map[int32]place // direct requests without an answer
	xid     int32           // of the next direct request
}

// newTrackedConn gives the server until deadline to grant the session. The
// library would wait for 6.7 session timeouts.
func newTrackedConn(c net.Conn, addr string, quiet bool, deadline time.Time) (*trackedConn, error) {
	return &trackedConn{Conn: c, addr: addr, quiet: quiet, in: newReadBuffer(c)}, c.SetDeadline(deadline)
}

// SetReadDeadline does nothing: the library's deadlines would close a
// connection without requests. A server's silence is detected by the calls,
// which have deadlines of their own.
func (w *trackedConn) SetReadDeadline(time.Time) error { return nil }

const (
	xidPing    = -2
	opMulti    = 14
	opClose    = -11
	frameHead  = 4
	headerSize = 16 // of an answer: xid, zxid, error
)

// Write sends p, which is one whole frame because the library writes each frame
// in one piece. If that fails, Write closes the connection and returns no error: the
// library then fails all requests, because its read fails. After an error of Write, while it
// gives the credentials to a new connection, it would wait for ever.
func (w *trackedConn) Write(p []byte) (int, error) {
	xid, op := opening(p)
	if w.quiet && xid == xidPing {
		return len(p), nil
	}
	w.mu.Lock()
	if w.sent.IsZero() {
		w.sent = dcs.Now() // P1
	}
	if w.owing.IsZero() {
		w.owing = dcs.Now()
	}
	var waiting chan struct{} // later calls wait for a later transaction
	if op == opMulti {
		waiting, w.multi = w.multi, nil
	}
	w.mu.Unlock()
	if _, err := w.Conn.Write(p); err != nil {
		w.failed(err)
		w.Conn.Close()
	} else if waiting != nil {
		close(waiting)
	}
	return len(p), nil
}

// opening returns the fields after the size of a frame that is sent.
func opening(p []byte) (xid, op int32) {
	if len(p) < 3*frameHead {
		return 0, 0
	}
	xid = int32(binary.BigEndian.Uint32(p[frameHead:]))
	return xid, int32(binary.BigEndian.Uint32(p[2*frameHead:]))
}

// nextMulti returns a channel that is closed when a transaction has been sent
// whose sending began after this call.
func (w *trackedConn) nextMulti() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.multi == nil {
		w.multi = make(chan struct{})
	}
	return w.multi
}

// Read passes the stream on, except for the answers to direct requests, and
// reads the head of every frame.
func (w *trackedConn) Read(p []byte) (int, error) {
	for w.pass == 0 {
		if _, err := w.takeDirect(); err != nil {
			w.failed(err)
			return 0, err
		}
	}
	n, err := w.in.Read(p[:min(len(p), w.pass)])
	w.pass -= n
	w.reading.feed(p[:n], w.frame)
	w.failed(err)
	return n, err
}

// frame processes the head of an answer, after the whole answer was read and
// before the library sees it.
func (w *trackedConn) frame(head []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owing = dcs.Instant{}
	if w.granted.id == 0 && !w.granted.refused {
		w.granted = parseGranted(head)
		_ = w.SetDeadline(time.Time{}) // later a broken connection is detected without a deadline
		return
	}
	if len(head) < headerSize {
		return
	}
	if xid := int32(binary.BigEndian.Uint32(head)); xid >= 0 || xid <= xidDirect {
		w.zxid = max(w.zxid, int64(binary.BigEndian.Uint64(head[4:])))
	}
}

func (w *trackedConn) failed(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault == nil {
		w.fault = err
	}
	w.abandon(err)
}

// grant returns when the session was requested on this connection, and the
// answer.
func (w *trackedConn) grant() (sent dcs.Instant, g granted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent, w.granted
}

// silent returns for how long the server has owed an answer and sent none of
// any kind.
func (w *trackedConn) silent() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owing.IsZero() {
		return 0
	}
	return w.owing.Elapsed()
}

// latest returns the largest zxid of any answer.
func (w *trackedConn) latest() dcs.Revision {
	w.mu.Lock()
	defer w.mu.Unlock()
	return revision(w.zxid)
}

func (w *trackedConn) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault
}

// frames finds the heads of the frames in a stream.
type frames struct {
	size [frameHead]byte
	have int    // bytes of size
	left int    // bytes left of the body
	head []byte // the first bytes of the body
}

// mostHead is the number of bytes of a frame that are kept.
const mostHead = 64

// feed processes the next bytes. It calls each at the end of every frame.
func (f *frames) feed(p []byte, each func(head []byte)) {
	for len(p) > 0 {
		if f.have < frameHead {
			n := copy(f.size[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have == frameHead {
				f.left, f.head = int(binary.BigEndian.Uint32(f.size[:])), f.head[:0]
			}
			if f.have < frameHead || f.left > 0 {
				continue
			}
		}
		n := min(len(p), f.left)
		f.head = append(f.head, p[:min(n, mostHead-len(f.head))]...)
		f.left -= n
		p = p[n:]
		if f.left == 0 {
			each(f.head)
			f.have = 0
		}
	}
}
