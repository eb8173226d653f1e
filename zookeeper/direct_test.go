package zookeeper

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
)

// connected returns a connection on which the session is granted.
func granting(t *testing.T) (w *trackedConn, theirs net.Conn) {
	w, theirs = piped(t, false)
	w.granted = granted{id: 1}
	w.most = 1 << 20
	return w, theirs
}

// served reads frames and answers each with code and body.
func served(c net.Conn, code int32, bodies ...[]byte) error {
	for _, body := range bodies {
		xid, _, err := nextFrame(c)
		if err != nil {
			return err
		}
		if _, err := c.Write(answer(xid, code, body...)); err != nil {
			return err
		}
	}
	return nil
}

// The answers to direct requests do not reach the library. The answers to the
// library's own requests and the events do, in their order.
func TestDirectAnswersAreTakenOut(t *testing.T) {
	w, theirs := granting(t)
	event := answer(-1, 0, []byte("event")...)
	go func() {
		xid, op, _ := nextFrame(theirs)
		if op != opGetData || xid > xidDirect {
			return
		}
		second, _, _ := nextFrame(theirs)
		_, _ = theirs.Write(event)
		_, _ = theirs.Write(answer(xid, 0, []byte("one")...))
		_, _ = theirs.Write(answer(second, -101))
		_, _ = theirs.Write(answer(7, 0, []byte("library's")...))
	}()
	library := make(chan []byte, 1)
	go func() {
		p := make([]byte, len(event)+len(answer(7, 0, []byte("library's")...)))
		_, _ = io.ReadFull(w, p)
		library <- p
	}()
	replies, err := w.ask(t.Context(), []directRequest{pathRequest(opGetData, "/a", false), pathRequest(opGetData, "/b", false)})
	require.NoError(t, err)
	require.Equal(t, []reply{{body: []byte("one")}, {code: -101, body: []byte{}}}, replies)
	require.Equal(t, append(event, answer(7, 0, []byte("library's")...)...), <-library)
	require.EqualValues(t, 1, w.latest())
	require.Empty(t, w.asked)
}

// An answer above the limit is skipped, and the connection stays usable.
func TestDirectAnswerAboveItsBound(t *testing.T) {
	w, theirs := granting(t)
	w.most = 1000
	go func() { _, _ = io.Copy(io.Discard, w) }()
	go func() { _ = served(theirs, 0, make([]byte, 5000), []byte("small")) }()
	replies, err := w.ask(t.Context(), []directRequest{pathRequest(opChildren2, "/a", false)})
	require.NoError(t, err)
	require.Equal(t, []reply{{size: 5000 + headerSize}}, replies)
	replies, err = w.ask(t.Context(), []directRequest{pathRequest(opChildren2, "/a", false)})
	require.NoError(t, err)
	require.Equal(t, []byte("small"), replies[0].body)
}

// A call that waits for an answer returns when the connection ends, and when
// its context ends.
func TestDirectRequestsEndWithTheirConnection(t *testing.T) {
	w, theirs := granting(t)
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := w.ask(short, []directRequest{pathRequest(opGetData, "/a", false)})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	done := make(chan error, 1)
	go func() {
		_, err := w.ask(t.Context(), []directRequest{pathRequest(opGetData, "/a", false), pathRequest(opGetData, "/b", false)})
		done <- err
	}()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.asked) == 3
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, w.Close())
	require.ErrorIs(t, <-done, errBroken)
	_, err = w.ask(t.Context(), []directRequest{pathRequest(opGetData, "/a", false)})
	require.ErrorIs(t, err, errBroken)
}

func TestMultiReadAnswers(t *testing.T) {
	var e encoder
	head := func(op int32, done bool) { e.int(op); e.bool(done); e.int(0) }
	head(opGetData, false)
	e.string("value")
	stat := make([]byte, 68)
	binary.BigEndian.PutUint64(stat, 5)
	binary.BigEndian.PutUint64(stat[8:], 6)
	binary.BigEndian.PutUint32(stat[32:], 3)
	e = append(e, stat...)
	head(opError, false)
	e.int(-101)
	nodes, err := multiNodes(reply{body: e}, 2)
	require.NoError(t, err)
	require.Equal(t, []node{{there: true, value: []byte("value"), stat: zk.Stat{Czxid: 5, Mzxid: 6, Version: 3}}, {}}, nodes)
	_, err = multiNodes(reply{body: e}, 3)
	require.ErrorIs(t, err, errShort)
	head(opError, false)
	e.int(-102)
	_, err = multiNodes(reply{body: e}, 3)
	require.ErrorIs(t, err, zk.ErrNoAuth)
}

// No answer of a server to a direct request causes a panic, or takes more
// memory than the answer.
func FuzzDirectAnswers(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'v'})
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1, 'a'})
	b := &Backend{root: "/r"}
	f.Fuzz(func(_ *testing.T, body []byte) {
		_, _ = multiNodes(reply{body: body}, 3)
		_, _ = nodesOf([]reply{{body: body}})
		_, _ = b.listingsOf("a", []string{"/r"}, []reply{{body: body}})
	})
}
