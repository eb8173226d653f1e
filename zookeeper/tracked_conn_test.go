package zookeeper

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// piped returns a connection and the server's end of it.
func piped(t *testing.T, quiet bool) (w *trackedConn, theirs net.Conn) {
	ours, theirs := net.Pipe()
	w, err := newTrackedConn(ours, "server", quiet, time.Time{})
	require.NoError(t, err)
	t.Cleanup(func() { w.Close(); theirs.Close() })
	return w, theirs
}

// A connection with TLS is closed at once, although its server does not read.
func TestCloseDoesNotWaitForTheServer(t *testing.T) {
	ca, conf := authority(t)
	pair, err := tls.LoadX509KeyPair(ca.Server().Cert, ca.Server().Key)
	require.NoError(t, err)
	bubble.Test(t, func(t *testing.T) {
		conf := conf.Clone()
		conf.InsecureSkipVerify = true // the clock of the test is in the past
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() {
			_ = tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true}).HandshakeContext(t.Context())
		}()
		c := tls.Client(ours, conf)
		require.NoError(t, c.HandshakeContext(t.Context()))
		w, err := newTrackedConn(c, "server", false, time.Time{})
		require.NoError(t, err)
		began := time.Now()
		require.NoError(t, w.Close())
		require.Zero(t, time.Since(began))
	})
}

// A discarded ping gets no answer: a quiet connection is owed none for it, and
// is not closed for the server's silence.
func TestQuietConnectionOwesNothingForAPing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w, theirs := piped(t, true)
		ping := binary.BigEndian.AppendUint32(nil, 8)
		xid := int32(xidPing)
		ping = binary.BigEndian.AppendUint32(ping, uint32(xid))
		ping = binary.BigEndian.AppendUint32(ping, 11)

		_, err := w.Write(ping)
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Zero(t, w.silent())

		go func() { _, _ = theirs.Read(make([]byte, 64)) }()
		_, err = w.Write(asking(newcomer(time.Second), 0))
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, time.Second, w.silent())
	})
}

// A transaction counts for a call that waited before its sending began. One
// that is being sent already may have been answered before.
func TestNextMultiIsALaterOne(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w, theirs := piped(t, false)
		over := func(ch <-chan struct{}) bool {
			synctest.Wait()
			select {
			case <-ch:
				return true
			default:
				return false
			}
		}
		multi := frame([]byte{0, 0, 0, 1, 0, 0, 0, opMulti})
		send := func() { go func() { _, _ = w.Write(multi) }() }
		receive := func() {
			_, err := io.ReadFull(theirs, make([]byte, len(multi)))
			require.NoError(t, err)
		}
		send()
		synctest.Wait() // the transaction is being sent, and the server has not read it
		next := w.nextMulti()
		receive()
		require.False(t, over(next))
		send()
		require.False(t, over(next), "no later transaction has been sent yet")
		receive()
		require.True(t, over(next))
	})
}

// openingOf returns the xid and the operation of a frame with the body.
func openingOf(body []byte) (xid, op int32) { return opening(append(make([]byte, frameHead), body...)) }

// nextFrame reads a frame from c, and returns its xid and its operation.
func nextFrame(c net.Conn) (xid, op int32, err error) {
	body, err := readFrame(c)
	if err != nil {
		return 0, 0, err
	}
	xid, op = openingOf(body)
	return xid, op, nil
}

// answer returns the frame that answers xid.
func answer(xid, code int32, body ...byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(xid))
	p = binary.BigEndian.AppendUint64(p, 1)
	p = binary.BigEndian.AppendUint32(p, uint32(code))
	return frame(append(p, body...))
}

// pipelined serves like a server that holds the answer to a transaction back
// until a read has come, which a real one does not. It reports for each read of
// path whether a transaction came before it.
func pipelined(c net.Conn, path string, reads chan<- bool) error {
	if _, err := readFrame(c); err != nil { // the session
		return err
	}
	grant := asking(granted{id: 1, timeout: 10 * time.Second}, 0)
	body := append(grant[frameHead:frameHead+4:frameHead+4], grant[16:]...) // the same without the zxid
	if _, err := c.Write(frame(body)); err != nil {
		return err
	}
	checked := []byte{0, 0, 0, 13, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff}
	var owed []int32
	for {
		body, err := readFrame(c)
		if err != nil {
			return err
		}
		xid, op := openingOf(body)
		switch {
		case op == opMulti:
			owed = append(owed, xid)
			continue
		case xid == xidPing: // a session that lasts long on a busy machine
			if _, err := c.Write(answer(xid, 0)); err != nil {
				return err
			}
			continue
		case bytes.Contains(body, []byte(path)):
			reads <- len(owed) > 0
		}
		for _, multi := range owed {
			if _, err := c.Write(answer(multi, 0, checked...)); err != nil {
				return err
			}
		}
		owed = nil
		if _, err := c.Write(answer(xid, codeNoNode)); err != nil {
			return err
		}
	}
}

const codeNoNode = -101

// A Get makes a request to the quorum and reads at once. The read is sent after
// that request, and does not wait for its answer.
func TestReadIsSentBehindTheBarrier(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	reads := make(chan bool, 1000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _ = pipelined(c, "/r/k", reads) }()
		}
	}()
	b, err := New(Config{
		Endpoints: []string{l.Addr().String()}, Root: "r", Timing: suiteTiming,
		Tick: 2 * time.Second, MinTTL: 4 * time.Second, MaxTTL: time.Minute,
	})
	require.NoError(t, err)
	defer b.Close()
	_, err = b.Get(t.Context(), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	for len(reads) > 0 {
		<-reads
	}
	for range 200 {
		_, err := b.Get(t.Context(), "k")
		require.ErrorIs(t, err, dcs.ErrNotFound)
		require.True(t, <-reads, "a read was sent before its barrier")
	}
}

// authFailingConn is a connection that breaks when credentials are sent, if breaks is
// positive.
type authFailingConn struct {
	net.Conn
	breaks *atomic.Int32
}

func (c authFailingConn) Write(p []byte) (int, error) {
	if _, op := opening(p); op == opSetAuth && c.breaks.Add(-1) >= 0 {
		c.Close()
		return 0, syscall.ECONNRESET
	}
	return c.Conn.Write(p)
}

// A connection that breaks while the library gives the credentials again does not end the
// use of the session.
func TestConnectionBreaksWhileCredentialsAreGiven(t *testing.T) {
	f := newFakeServer(t)
	var breaks atomic.Int32
	dial := func(string, string, time.Duration) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.addr)
		if err != nil {
			return nil, err
		}
		return newTrackedConn(authFailingConn{c, &breaks}, f.addr, false, time.Now().Add(time.Minute))
	}
	c, _, err := zk.Connect([]string{f.addr}, 10*time.Second, zk.WithDialer(dial), zk.WithLogger(silent{}), zk.WithLogInfo(false))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.AddAuth(schemeDigest, []byte("me:secret")))
	breaks.Store(1)
	f.mu.Lock()
	for conn := range f.conns {
		conn.Close()
	}
	f.mu.Unlock()
	require.Eventually(t, func() bool { return breaks.Load() < 0 }, 10*time.Second, time.Millisecond, "the library must connect again")
	there, _, err := c.Exists("/k")
	require.NoError(t, err)
	require.False(t, there)
}
