package state

import (
	"bytes"
	"errors"
	"fmt"
)

// incarnationMark begins the extensions of the configuration entry that a
// cluster begins with. The incarnation follows.
const incarnationMark = "holdfast-incarnation\x00"

// FoundingExtensions returns the Extensions of the first log entry of a cluster
// of that incarnation.
func FoundingExtensions(incarnation [16]byte) []byte {
	return append([]byte(incarnationMark), incarnation[:]...)
}

// ReadExtensions returns the incarnation in the Extensions of a configuration
// entry. It is zero in an entry that has none, as all but a cluster's first.
func ReadExtensions(extensions []byte) (incarnation [16]byte, err error) {
	rest, marked := bytes.CutPrefix(extensions, []byte(incarnationMark))
	if !marked {
		return incarnation, nil
	}
	if len(rest) != len(incarnation) || [16]byte(rest) == incarnation {
		return incarnation, errors.New("the incarnation in a configuration entry is malformed")
	}
	return [16]byte(rest), nil
}

// Incarnation returns the incarnation of the cluster that the state belongs to,
// or zero while the state is empty or its cluster began without one.
func (f *FSM) Incarnation() [16]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.incarnation
}

// checkIncarnation returns an error unless f is empty or belongs to that
// incarnation.
func (f *FSM) checkIncarnation(incarnation [16]byte) error {
	if own := f.Incarnation(); own != incarnation && f.applied.Load() > 0 {
		return fmt.Errorf("incarnation %x of the cluster, and this node's state is of incarnation %x", incarnation, own)
	}
	return nil
}

func (f *FSM) setIncarnation(incarnation [16]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.incarnation = incarnation
}
