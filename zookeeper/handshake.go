package zookeeper

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// granted is a server's answer to a request for a new session, or to resume
// one.
type granted struct {
	id       int64
	password []byte
	timeout  time.Duration
	refused  bool // the session is over
}

const passwordSize = 16

// newcomer describes a new session.
func newcomer(ttl time.Duration) granted { return granted{timeout: ttl} }

// parseGranted parses an answer: version, timeout, id, password.
func parseGranted(body []byte) granted {
	const fixed = 4 + 4 + 8 + 4
	if len(body) < fixed {
		return granted{refused: true}
	}
	g := granted{
		timeout: time.Duration(binary.BigEndian.Uint32(body[4:])) * time.Millisecond,
		id:      int64(binary.BigEndian.Uint64(body[8:])),
	}
	n := int(binary.BigEndian.Uint32(body[16:]))
	if g.id == 0 || n > len(body)-fixed {
		return granted{refused: true}
	}
	g.password = append(g.password, body[fixed:fixed+n]...)
	return g
}

// asking returns the frame that requests a new session, or resumes g.
func asking(g granted, seen int64) []byte {
	p := make([]byte, 0, 64)
	p = binary.BigEndian.AppendUint32(p, 4+8+4+8+4+passwordSize)
	p = binary.BigEndian.AppendUint32(p, 0)
	p = binary.BigEndian.AppendUint64(p, uint64(seen))
	p = binary.BigEndian.AppendUint32(p, uint32(g.timeout.Milliseconds()))
	p = binary.BigEndian.AppendUint64(p, uint64(g.id))
	p = binary.BigEndian.AppendUint32(p, passwordSize)
	password := make([]byte, passwordSize)
	copy(password, g.password)
	return append(p, password...)
}

// ask requests a new session, or resumes one, on a separate connection. The
// client library can neither end a session that it cannot reach any more nor
// report the granted timeout.
func ask(c net.Conn, g granted, seen int64) (granted, error) {
	if _, err := c.Write(asking(g, seen)); err != nil {
		return granted{}, err
	}
	body, err := readFrame(c)
	if err != nil {
		return granted{}, err
	}
	return parseGranted(body), nil
}

// errFrame is the error for an answer that does not follow ZooKeeper's
// protocol.
var errFrame = errors.New("the answer does not follow the ZooKeeper protocol")

const mostFrame = 1 << 20

func readFrame(c net.Conn) ([]byte, error) {
	var size [frameHead]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > mostFrame {
		return nil, errFrame
	}
	body := make([]byte, n)
	_, err := io.ReadFull(c, body)
	return body, err
}

// endSession ends the session that was resumed on c, and returns when the
// quorum has ended it.
func endSession(c net.Conn) error {
	var p []byte
	p = binary.BigEndian.AppendUint32(p, 8)
	p = binary.BigEndian.AppendUint32(p, 1)
	op := int32(opClose)
	p = binary.BigEndian.AppendUint32(p, uint32(op))
	if _, err := c.Write(p); err != nil {
		return err
	}
	body, err := readFrame(c)
	if err != nil {
		return err
	}
	if len(body) < headerSize {
		return errFrame
	}
	if code := int32(binary.BigEndian.Uint32(body[12:])); code != 0 && code != codeExpired {
		return errFrame
	}
	return nil
}

const codeExpired = -112

// aside runs f on a separate connection to one server, within ctx.
func (b *Backend) aside(ctx context.Context, addr string, f func(c net.Conn) error) error {
	c, err := b.dial(ctx, addr)
	if err != nil {
		return b.notGranted(addr, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	err = f(c)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return b.notGranted(addr, err)
	}
	return nil
}
