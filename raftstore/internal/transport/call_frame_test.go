package transport

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

type fakePeer struct {
	addr  string
	conns chan net.Conn
}

func startFakePeer(t *testing.T, n *Network) *fakePeer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &fakePeer{addr: ln.Addr().String(), conns: make(chan net.Conn, 16)}
	done := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		<-done
		for {
			select {
			case conn := <-p.conns:
				conn.Close()
			default:
				return
			}
		}
	})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, _, err := n.hello.asPeer("fake").welcome(conn, anyone, n.older); err != nil {
				conn.Close()
				continue
			}
			p.conns <- conn
		}
	}()
	return p
}

func (p *fakePeer) answer(t *testing.T, reply func(frame) []byte) {
	t.Helper()
	go func() {
		conn := <-p.conns
		f, err := readFrame(bufio.NewReader(conn))
		if err == nil {
			_, _ = conn.Write(reply(f))
		}
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}()
}

func TestBadReplies(t *testing.T) {
	a, _ := startPair(t)
	huge := func(f frame) []byte {
		b := appendFrame(nil, frame{kind: frameReply, id: f.id})
		binary.LittleEndian.PutUint32(b[4:], maxReply+1)
		return b
	}
	for name, tc := range map[string]struct {
		reply   func(frame) []byte
		want    error
		text    string
		unclear bool
	}{
		"huge":    {huge, errBadFrame, "above the limit", true},
		"request": {func(f frame) []byte { return appendFrame(nil, frame{kind: frameRequest, id: f.id}) }, errBadFrame, "from a callee", true},
		"kind":    {func(f frame) []byte { return appendFrame(nil, frame{kind: 99, id: f.id}) }, errBadFrame, "header", true},
		"version": {func(f frame) []byte {
			b := appendFrame(nil, frame{kind: frameReply, id: f.id})
			b[0] = 9
			return b
		}, ErrPeerRefused, "version 9 of the protocol, this one version 2", true},
		"cut off": {func(f frame) []byte {
			return appendFrame(nil, frame{kind: frameReply, id: f.id, body: []byte("abc")})[:26]
		}, nil, "", true},
		"refused": {func(f frame) []byte {
			return appendFrame(nil, frame{kind: frameRefused, id: f.id, body: []byte("not now")})
		}, ErrNotSent, "not now", false},
		"failed": {func(f frame) []byte {
			return appendFrame(nil, frame{kind: frameFailed, id: f.id, body: []byte("who knows")})
		}, nil, "who knows", true},
	} {
		t.Run(name, func(t *testing.T) {
			peer := startFakePeer(t, a)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			peer.answer(t, func(f frame) []byte {
				if name == "cut off" {
					cancel() // nothing else ends the call
				}
				return tc.reply(f)
			})
			_, err := a.Call(ctx, peer.addr, 1, nil)
			require.Error(t, err)
			require.ErrorContains(t, err, tc.text)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
			}
			assert.Equal(t, tc.unclear, !errors.Is(err, ErrNotSent))
		})
	}
}

func TestUnaskedRepliesAreIgnored(t *testing.T) {
	a, _ := startPair(t)
	peer := startFakePeer(t, a)
	peer.answer(t, func(f frame) []byte {
		b := appendFrame(nil, frame{kind: frameReply, id: f.id + 1000, body: []byte("nobody's")})
		b = appendFrame(b, frame{kind: frameReply, id: f.id, body: []byte("first")})
		return appendFrame(b, frame{kind: frameReply, id: f.id, body: []byte("second")})
	})
	reply, err := a.Call(testContext(t), peer.addr, 1, nil)
	require.NoError(t, err)
	require.Equal(t, "first", string(reply))
}

func TestBadRequests(t *testing.T) {
	a, b := startPair(t)
	valid := appendFrame(nil, frame{kind: frameRequest, id: 1})
	edit := func(at int, v byte) []byte {
		f := bytes.Clone(valid)
		f[at] = v
		return f
	}
	for name, raw := range map[string][]byte{
		"version":         edit(0, 9),
		"kind":            edit(1, 77),
		"reply":           edit(1, byte(frameReply)),
		"reserved":        edit(3, 1),
		"huge":            edit(7, 0xff),
		"negative budget": edit(23, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", b.Addr())
			require.NoError(t, err)
			defer conn.Close()
			_, err = b.hello.asPeer("zz").greet(conn, KindCall, "")
			require.NoError(t, err)
			_, err = conn.Write(raw)
			require.NoError(t, err)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
			_, err = io.ReadAll(conn)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
			mustCall(t, a, b.Addr(), "not affected")
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(appendFrame(nil, frame{kind: frameRequest, op: 3, id: 9, budget: time.Second, body: []byte("abc")}))
	f.Add(appendFrame(nil, frame{kind: frameCancel, id: 1 << 63}))
	f.Add([]byte{wireVersion, 1, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{3})
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := bytes.NewReader(raw)
		got, err := readFrame(bufio.NewReaderSize(in, 64))
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(got.body), len(raw))
		// A frame that can be read is written to the same bytes.
		require.Equal(t, raw[:frameHeader+len(got.body)], appendFrame(nil, got))
	})
}

// anyone proves every ID.
func anyone(Kind, string) error { return nil }

func FuzzWelcome(f *testing.F) {
	own := Hello{version: wireVersion, cluster: NewClusterID("r"), ID: "a"}
	own.Incarnation, own.Life = disk.Incarnation{1}, disk.Life{2}
	peer := own.asPeer("b")
	f.Add(peer.opening(KindSetup))
	f.Add(peer.opening(KindCall))
	peer.wanted = own.Life
	f.Add(peer.opening(KindCall))
	f.Add([]byte{helloMarker | byte(KindRaft), 200})
	f.Add([]byte{tlsHandshake, 3, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, peer, err := own.welcome(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(raw), io.Discard}, anyone, func(Hello) bool { return false })
		if err == nil {
			require.True(t, k == KindRaft || k == KindCall || k == KindSetup)
			require.True(t, ValidID(peer.ID) && peer.ID != own.ID)
			require.True(t, k == KindSetup || peer.Incarnation == own.Incarnation && peer.wanted == own.Life)
		}
		other, err := own.greet(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(raw), io.Discard}, KindCall, "b")
		if err == nil {
			require.Equal(t, byte(verdictWelcome), raw[2])
			require.Equal(t, own.Incarnation, other.Incarnation)
		}
	})
}
