package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
)

// maxSetup bounds a message on a setup connection.
const maxSetup = 64 << 10

// SetupHandler answers the one message of a setup connection. With an error the
// connection is closed without an answer.
type SetupHandler func(peer Hello, message []byte) (answer []byte, err error)

// Ask sends a message to the node at addr on a setup connection, with any
// life and incarnation of that node. It returns the answer and the hello of
// the node. Another node than the one named is an error; "" is any of the cluster.
func (n *Network) Ask(ctx context.Context, node, addr string, message []byte) (peer Hello, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	conn, err := n.dialNode(ctx, KindSetup, PlainAddr(addr), node)
	if err != nil {
		return Hello{}, nil, err
	}
	defer conn.Close()
	defer boundBy(ctx, conn)()
	if err = writeSetup(conn, frameRequest, message); err == nil {
		answer, err = readSetup(conn, frameReply)
	}
	if err != nil {
		return Hello{}, nil, fmt.Errorf("%s: %w", PlainAddr(addr), err)
	}
	return conn.hello, answer, nil
}

// answerSetup answers the one message of an accepted setup connection.
func (n *Network) answerSetup(ctx context.Context, conn *trackedConn) {
	defer conn.Close()
	h := n.setup.Load()
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	defer boundBy(ctx, conn)()
	message, err := readSetup(conn, frameRequest)
	if err != nil {
		return
	}
	if answer, err := (*h)(conn.hello, message); err == nil {
		_ = writeSetup(conn, frameReply, answer) // else the other side reports it
	}
}

// ServeSetup starts answering setup connections with h, which replaces the handler
// before. Until then they are closed.
func (n *Network) ServeSetup(h SetupHandler) { n.setup.Store(&h) }

func writeSetup(w io.Writer, k frameKind, message []byte) error {
	_, err := w.Write(appendFrame(nil, frame{kind: k, body: message}))
	return err
}

func readSetup(r io.Reader, k frameKind) ([]byte, error) {
	f, err := readFrame(bufio.NewReader(io.LimitReader(r, maxSetup)))
	if err != nil {
		return nil, err
	}
	if f.kind != k {
		return nil, fmt.Errorf("%w: kind %d on a setup connection", errBadFrame, f.kind)
	}
	return f.body, nil
}
