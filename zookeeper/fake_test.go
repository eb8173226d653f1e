package zookeeper

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeServer grants sessions, confirms what changes nothing, and has no nodes.
type fakeServer struct {
	t    *testing.T
	addr string

	mu    sync.Mutex
	l     net.Listener
	conns map[net.Conn]bool
	last  int64
	ended int // sessions
}

func newFakeServer(t *testing.T) *fakeServer {
	f := &fakeServer{t: t, addr: "127.0.0.1:0", conns: map[net.Conn]bool{}}
	f.start()
	t.Cleanup(f.stop)
	return f
}

// start serves, at the address that it had before.
func (f *fakeServer) start() {
	l, err := net.Listen("tcp", f.addr)
	require.NoError(f.t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.l, f.addr = l, l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[c] = true
			f.mu.Unlock()
			go f.serve(c)
		}
	}()
}

// stop ends every connection, and takes no others.
func (f *fakeServer) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.l.Close()
	for c := range f.conns {
		c.Close()
	}
	clear(f.conns)
}

func (f *fakeServer) serve(c net.Conn) {
	defer c.Close()
	body, err := readFrame(c)
	if err != nil {
		return
	}
	d := decoder{p: body}
	d.int()
	d.long()
	g := granted{timeout: time.Duration(d.int()) * time.Millisecond, id: d.long()}
	if g.id == 0 {
		f.mu.Lock()
		f.last++
		g.id = f.last
		f.mu.Unlock()
	}
	grant := asking(g, 0)
	if _, err := c.Write(frame(append(grant[frameHead:frameHead+4:frameHead+4], grant[16:]...))); err != nil {
		return
	}
	for {
		xid, op, err := nextFrame(c)
		if err != nil {
			return
		}
		reply := answer(xid, codeNoNode)
		switch op {
		case opMulti:
			reply = answer(xid, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff)
		case opClose:
			f.mu.Lock()
			f.ended++
			f.mu.Unlock()
			reply = answer(xid, 0)
		}
		if _, err := c.Write(reply); err != nil || op == opClose {
			return
		}
	}
}
