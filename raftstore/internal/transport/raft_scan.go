package transport

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
)

// messageScan follows the messages of one direction of a Raft connection, token
// by token.
//
// A request is a byte that names its kind and a map of fields; a snapshot
// follows its request as it is. A reply is an error text and a map.
type messageScan struct {
	peer    string // the node that sends
	replies bool

	kind   byte
	left   int64           // bytes that the message may still have
	values int             // values of the message that are not complete
	open   []openContainer // the containers around them
	field  string          // the field of a request whose value is next
	named  bool            // the request named its sender
	size   int64           // of the snapshot that follows
}

// openContainer is a list or a map, some of whose elements are missing.
type openContainer struct {
	isMap   bool
	missing int // elements; a field is two of them
}

const (
	// maxFields bounds the fields of a message, and maxNesting the containers
	// within each other: a request, its entries, an entry.
	maxFields  = 32
	maxNesting = 3
)

// idle reports whether the scan is between two messages.
func (s *messageScan) idle() bool { return s.values == 0 && s.size == 0 }

// takeSnapshot returns the size of the snapshot that follows the message that
// has just ended, once.
func (s *messageScan) takeSnapshot() int64 {
	if s.values > 0 {
		return 0
	}
	size := s.size
	s.size = 0
	return size
}

// next returns the length of the next token. peek returns the next n bytes
// without consuming them.
func (s *messageScan) next(peek func(n int) ([]byte, error)) (int64, error) {
	if s.values == 0 {
		s.left, s.open, s.field, s.named = maxSmallMessage, s.open[:0], "", false
		if s.replies {
			s.values = 2
		} else {
			return s.begin(peek)
		}
	}
	t, err := readToken(peek)
	if err != nil {
		return 0, s.unexpected(err)
	}
	if s.left -= t.length(); s.left < 0 {
		return 0, fmt.Errorf("%w: a Raft message of kind %d has more than its bound of bytes", errBadFrame, s.kind)
	}
	if err := s.check(t, peek); err != nil {
		return 0, err
	}
	return t.length(), s.count(t)
}

// begin reads the kind of a request.
func (s *messageScan) begin(peek func(n int) ([]byte, error)) (int64, error) {
	b, err := peek(1)
	if err != nil {
		return 0, err // io.EOF between two messages is an ordinary end
	}
	s.kind = b[0]
	switch s.kind {
	case rpcAppendEntries:
		s.left = maxAppend
	case rpcRequestVote, rpcInstallSnapshot, rpcTimeoutNow, rpcRequestPreVote:
	default:
		return 0, fmt.Errorf("%w: a Raft request of unknown kind %d", errBadFrame, s.kind)
	}
	s.values = 1
	return 1, nil
}

func (s *messageScan) unexpected(err error) error {
	if errors.Is(err, io.EOF) && !(s.replies && s.values == 2) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// check checks a token.
func (s *messageScan) check(t token, peek func(n int) ([]byte, error)) error {
	if s.replies {
		return nil
	}
	switch len(s.open) {
	case 0:
		if t.form != formMap {
			return fmt.Errorf("%w: a Raft request without fields", errBadFrame)
		}
	case 1:
		if s.open[0].missing%2 == 0 {
			name, err := t.text(peek, maxFieldName)
			s.field = name
			return err
		}
		return s.checkField(t, peek)
	}
	return nil
}

// checkField looks at the fields of a request that matter here.
func (s *messageScan) checkField(t token, peek func(n int) ([]byte, error)) error {
	switch {
	case s.field == "ID":
		id, err := t.text(peek, maxServerID)
		if err != nil {
			return err
		}
		if node, _, _ := strings.Cut(id, "#"); node != s.peer {
			return fmt.Errorf("%w: node %q sent a Raft request as %q", ErrPeerRefused, s.peer, logging.Clip(id))
		}
		s.named = true
	case s.field == "Size" && s.kind == rpcInstallSnapshot:
		if t.form != formNumber || t.number > maxSnapshot {
			return fmt.Errorf("%w: a snapshot of more than %d bytes", errBadFrame, int64(maxSnapshot))
		}
		s.size = int64(t.number)
	}
	return nil
}

// count follows the open containers.
func (s *messageScan) count(t token) error {
	if len(s.open) == 0 {
		s.values--
	} else {
		s.open[len(s.open)-1].missing--
	}
	if t.elements > 0 {
		if len(s.open) == maxNesting {
			return fmt.Errorf("%w: a Raft message with more than %d levels", errBadFrame, maxNesting)
		}
		s.open = append(s.open, openContainer{isMap: t.form == formMap, missing: t.elements})
		s.values++
	}
	for n := len(s.open); n > 0 && s.open[n-1].missing == 0; n-- {
		s.open = s.open[:n-1]
		s.values--
	}
	if s.values == 0 && !s.replies && !s.named {
		return fmt.Errorf("%w: a Raft request that does not name its sender", errBadFrame)
	}
	return nil
}
