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

// wire is one connection of a session, below the client library, which tells
// neither what a server granted nor the zxid of an answer: both are read here
// as they pass by.
type wire struct {
	net.Conn
	addr  string
	quiet bool // the library's pings are not sent: they would renew the session

	reading frames        // by the library's one reader
	in      *bufio.Reader // the same
	pass    int           // bytes of the library's frame to come
	most    int           // the size of the largest direct answer that is read

	identity atomic.Pointer[string] // of the store, as it was asked for; nil: it was not

	mu      sync.Mutex
	sent    dcs.Instant     // when the session was asked for
	granted granted         // what was answered
	zxid    int64           // the largest in any answer
	owing   dcs.Instant     // the first sending after the last answer; zero: none
	fault   error           // why it ended
	multi   chan struct{}   // closed when the next transaction was sent; nil: nobody waits
	asked   map[int32]place // direct requests without an answer
	xid     int32           // of the next direct request
}

// newWire gives the server until deadline to grant the session: the library
// would wait for 6.7 session timeouts.
func newWire(c net.Conn, addr string, quiet bool, deadline time.Time) (*wire, error) {
	return &wire{Conn: c, addr: addr, quiet: quiet, in: newReadBuffer(c)}, c.SetDeadline(deadline)
}

// SetReadDeadline does nothing: the library's deadlines would cut a connection
// on which nothing was asked. A server's silence is found by the calls, which
// have deadlines of their own.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

const (
	xidPing    = -2
	opMulti    = 14
	opClose    = -11
	frameHead  = 4
	headerSize = 16 // of an answer: xid, zxid, error
)

// Write sends one frame: the library writes each in one piece.
func (w *wire) Write(p []byte) (int, error) {
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
	var waiting chan struct{} // who asks from now on waits for a later one
	if op == opMulti {
		waiting, w.multi = w.multi, nil
	}
	w.mu.Unlock()
	n, err := w.Conn.Write(p)
	w.failed(err)
	if err == nil && waiting != nil {
		close(waiting)
	}
	return n, err
}

// opening is what a frame that is sent begins with, behind its size.
func opening(p []byte) (xid, op int32) {
	if len(p) < 3*frameHead {
		return 0, 0
	}
	xid = int32(binary.BigEndian.Uint32(p[frameHead:]))         //nolint:gosec // G115: as the protocol has it
	return xid, int32(binary.BigEndian.Uint32(p[2*frameHead:])) //nolint:gosec // G115: as the protocol has it
}

// nextMulti is closed when a transaction has been sent whose sending began after
// this call.
func (w *wire) nextMulti() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.multi == nil {
		w.multi = make(chan struct{})
	}
	return w.multi
}

// Read passes on what comes but the answers to direct requests, and looks at the
// head of every frame.
func (w *wire) Read(p []byte) (int, error) {
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

// frame takes the head of an answer, when the whole of it has been read and
// before the library looks at it.
func (w *wire) frame(head []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owing = dcs.Instant{}
	if w.granted.id == 0 && !w.granted.refused {
		w.granted = parseGranted(head)
		_ = w.SetDeadline(time.Time{}) // a connection that is broken says so soon enough
		return
	}
	if len(head) < headerSize {
		return
	}
	if xid := int32(binary.BigEndian.Uint32(head)); xid >= 0 || xid <= xidDirect { //nolint:gosec // G115: as the protocol has it
		w.zxid = max(w.zxid, int64(binary.BigEndian.Uint64(head[4:]))) //nolint:gosec // G115: as the protocol has it
	}
}

func (w *wire) failed(err error) {
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

// grant is when the session was asked for on this connection, and the answer.
func (w *wire) grant() (sent dcs.Instant, g granted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent, w.granted
}

// silent is for how long the server has owed an answer, with none of any kind.
func (w *wire) silent() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owing.IsZero() {
		return 0
	}
	return w.owing.Elapsed()
}

// latest is the largest zxid of any answer.
func (w *wire) latest() dcs.Revision {
	w.mu.Lock()
	defer w.mu.Unlock()
	return revision(w.zxid)
}

func (w *wire) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault
}

// frames finds the heads of the frames in a stream.
type frames struct {
	size [frameHead]byte
	have int    // bytes of size
	left int    // bytes of the body to come
	head []byte // its first ones
}

// mostHead is how much of a frame is looked at.
const mostHead = 64

// feed takes the next bytes; each is called at the end of every frame.
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
