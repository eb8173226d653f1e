package transport

import (
	"bufio"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// MaxBatch is the greatest number of log entries in one message to a follower.
const MaxBatch = 64

const (
	// maxBatchBytes bounds the log entries in one message to a follower. A
	// single entry always fits.
	maxBatchBytes = 2 << 20
	// maxAppend bounds such a message: the entries, and the fields around them.
	maxAppend = maxBatchBytes + maxSmallMessage
	// maxSmallMessage bounds every other message of Raft.
	maxSmallMessage = 64 << 10
	// maxSnapshot bounds the snapshot that a node accepts from another one.
	maxSnapshot = 4 << 30
	// snapshotRate is how many bytes of a snapshot must arrive within the
	// readTimeout of a guard, as on the sending side.
	snapshotRate = raft.DefaultTimeoutScale

	// maxFieldName is the longest name of a field, and maxServerID the longest
	// name of a server.
	maxFieldName = 32
	maxServerID  = 2 * MaxNodeID
)

// The kinds of requests between Raft's transports, as on the wire.
const (
	rpcAppendEntries byte = iota
	rpcRequestVote
	rpcInstallSnapshot
	rpcTimeoutNow
	rpcRequestPreVote
)

// raftGuard is a connection of Raft that fails at the first message that Raft
// does not send, before the transport decodes it. The transport takes lists and
// bytes of any length, makes a hundred bytes of an element that has one, and
// believes a request's name of its sender.
type raftGuard struct {
	*trackedConn
	r    *bufio.Reader
	msgs messageScan
	pass int64 // bytes that the transport may read

	// readTimeout bounds the time for a request to arrive, once it has begun. 0
	// leaves deadlines to the transport, which sets them for replies.
	readTimeout time.Duration
	armed       bool        // a deadline is set
	began       dcs.Instant // when the snapshot began
	snapshot    int64       // the size of the snapshot that is arriving, or 0
	missing     int64       // bytes of it that have not arrived
	report      func(error)
}

// newRaftGuard guards conn. The messages on a connection that was dialled are
// replies.
func newRaftGuard(conn *trackedConn, readTimeout time.Duration, report func(error)) *raftGuard {
	g := &raftGuard{trackedConn: conn, r: bufio.NewReader(conn.Conn), report: report}
	g.msgs = messageScan{peer: conn.peer, replies: conn.dialled}
	if !conn.dialled {
		g.readTimeout = readTimeout
	}
	return g
}

// Read returns the next bytes of messages that are in order so far.
func (g *raftGuard) Read(b []byte) (int, error) {
	n, err := g.read(b)
	if errors.Is(err, errBadFrame) || errors.Is(err, ErrPeerRefused) {
		g.report(err)
	}
	return n, err
}

func (g *raftGuard) read(b []byte) (int, error) {
	if g.pass == 0 {
		if err := g.advance(); err != nil {
			return 0, err
		}
	}
	if err := g.await(1); err != nil {
		return 0, err
	}
	n, err := g.r.Read(b[:min(int64(len(b)), g.pass)])
	g.pass -= int64(n)
	if g.missing > 0 {
		g.missing -= int64(n)
	}
	return n, err
}

// advance lets the transport read the next token, or the snapshot that follows a
// message.
func (g *raftGuard) advance() error {
	if size := g.msgs.takeSnapshot(); size > 0 {
		g.pass, g.snapshot, g.missing, g.began = size, size, size, dcs.Now()
		return nil
	}
	n, err := g.msgs.next(func(n int) ([]byte, error) {
		if err := g.await(n); err != nil {
			return nil, err
		}
		return g.r.Peek(n)
	})
	g.pass = n
	return err
}

// await sets the deadline for the next n bytes, if they are not there already.
func (g *raftGuard) await(n int) error {
	if g.readTimeout == 0 || g.r.Buffered() >= n {
		return nil
	}
	if g.pass == 0 && g.msgs.idle() {
		if g.armed {
			g.armed = false
			return g.SetReadDeadline(time.Time{})
		}
		return nil
	}
	if g.missing > 0 && g.began.Elapsed() > g.readTimeout*time.Duration(1+g.snapshot/snapshotRate) {
		return fmt.Errorf("%w: a snapshot of %d bytes took longer than %v for each %d of them", errBadFrame, g.snapshot, g.readTimeout, snapshotRate)
	}
	if g.armed && g.missing == 0 {
		return nil // of a snapshot any progress counts
	}
	g.armed = true
	return g.SetReadDeadline(time.Now().Add(g.readTimeout)) //nolint:forbidigo // a deadline has a monotonic reading
}
