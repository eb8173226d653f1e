package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// MaxEntryBytes bounds the entries of the store that the handler of a call should
// put into one reply. A longer reply than these and a few names and numbers is
// refused.
const MaxEntryBytes = 8 << 20

// A frame is one message of a call connection:
//
//	0     version of the protocol
//	1     kind of frame
//	2     operation (requests)
//	3     0
//	4-7   length of the body
//	8-15  request ID, chosen by the caller, unique on the connection
//	16-23 the caller's remaining budget in ns, 0 without one (requests)
//	24-   body
//
// Integers are little-endian.
const (
	frameHeader = 24

	// callOverhead is the bytes that a request may have on top of its command, and a
	// reply on top of its entries: numbers, names and a reason.
	callOverhead = 4 << 10
	// maxRequest bounds the body of a request: the largest command. The keys
	// of a renewal are bounded by maxRenewKeys and need less.
	maxRequest = state.MaxCommand + callOverhead
	// maxReply bounds the body of a reply: the largest tree that is sent.
	maxReply = MaxEntryBytes + callOverhead
	// maxReason bounds the text of a reply that was refused or failed.
	maxReason = logging.MaxText

	// trustedBody is the most that is allocated on a header's word alone.
	trustedBody = 64 << 10
)

type frameKind byte

const (
	frameRequest frameKind = 1
	frameReply   frameKind = 2
	// frameRefused answers a request that was not executed; the body says why.
	frameRefused frameKind = 3
	// frameFailed answers a request that may have been executed and has no
	// reply; the body says why.
	frameFailed frameKind = 4
	// frameCancel says that nobody waits for the request any more.
	frameCancel frameKind = 5
	// frameOpen begins a stream, on a client's connection only. Its messages are
	// framePush, and a frameFailed whose body says why ends it.
	frameOpen frameKind = 6
	framePush frameKind = 7
)

// mostBody returns the bound of a frame's body in bytes.
func (k frameKind) mostBody() int {
	switch k {
	case frameRequest:
		return maxRequest
	case frameReply:
		return maxReply
	case frameRefused, frameFailed:
		return maxReason
	case frameOpen:
		return callOverhead
	case framePush:
		return maxReply
	case frameCancel:
	}
	return 0
}

type frame struct {
	kind   frameKind
	op     byte
	id     uint64
	budget time.Duration
	body   []byte
}

// errBadFrame ends a connection: after it nothing on it can be understood.
var errBadFrame = errors.New("malformed frame")

func appendFrame(dst []byte, f frame) []byte {
	var h [frameHeader]byte
	h[0], h[1], h[2] = wireVersion, byte(f.kind), f.op
	binary.LittleEndian.PutUint32(h[4:], uint32(len(f.body))) // senders check the body against mostBody
	binary.LittleEndian.PutUint64(h[8:], f.id)
	binary.LittleEndian.PutUint64(h[16:], uint64(max(f.budget, 0)))
	dst = append(dst, h[:]...)
	return append(dst, f.body...)
}

// readFrame reads one frame; its body is freshly allocated. io.EOF means that
// the connection ended between two frames.
func readFrame(r *bufio.Reader) (frame, error) {
	h, err := r.Peek(frameHeader)
	if err != nil {
		if len(h) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	f := frame{
		kind:   frameKind(h[1]),
		op:     h[2],
		id:     binary.LittleEndian.Uint64(h[8:]),
		budget: time.Duration(binary.LittleEndian.Uint64(h[16:])), // checked below
	}
	size, most := binary.LittleEndian.Uint32(h[4:]), f.kind.mostBody()
	switch {
	case h[0] != wireVersion:
		return frame{}, versionError(h[0], wireVersion)
	case f.kind < frameRequest || f.kind > framePush || h[3] != 0 || f.budget < 0:
		return frame{}, fmt.Errorf("%w: header % x", errBadFrame, h)
	case int64(size) > int64(most):
		return frame{}, fmt.Errorf("%w: a body of %d bytes is above the limit of %d", errBadFrame, size, most)
	}
	if _, err := r.Discard(frameHeader); err != nil {
		return frame{}, err
	}
	f.body, err = readBody(r, int(size))
	return f, err
}

// readBody allocates no more than arrives, give or take trustedBody.
func readBody(r io.Reader, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	body := make([]byte, min(size, trustedBody))
	for at := 0; ; {
		got, err := io.ReadFull(r, body[at:])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		at += got
		if at == size {
			return body, nil
		}
		grown := make([]byte, min(size, 2*at))
		copy(grown, body)
		body = grown
	}
}
