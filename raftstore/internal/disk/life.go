package disk

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// A Life identifies a data directory from the moment at which it was made. A
// node whose directory was lost gets another one: for the other nodes it is
// another server, so that nothing is counted for it that it has forgotten.
type Life [8]byte

// An Incarnation identifies a cluster from its first start on. Two clusters
// with the same settings have different ones.
type Incarnation [16]byte

// NewLife draws a life.
func NewLife() (l Life) {
	_, _ = rand.Read(l[:]) // never fails
	return l
}

// NewIncarnation draws an incarnation.
func NewIncarnation() (i Incarnation) {
	_, _ = rand.Read(i[:]) // never fails
	return i
}

// ParseLife returns the life that String wrote.
func ParseLife(s string) (l Life, err error) { return l, parseHex(l[:], s, "life") }

// IsZero reports whether l is no life.
func (l Life) IsZero() bool { return l == Life{} }

// IsZero reports whether i is no incarnation.
func (i Incarnation) IsZero() bool { return i == Incarnation{} }

// String returns l in hexadecimal digits.
func (l Life) String() string { return hex.EncodeToString(l[:]) }

// String returns i in hexadecimal digits.
func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// MarshalText implements encoding.TextMarshaler. The zero value is empty.
func (l Life) MarshalText() ([]byte, error) { return marshalHex(l.String(), l.IsZero()) }

// MarshalText implements encoding.TextMarshaler. The zero value is empty.
func (i Incarnation) MarshalText() ([]byte, error) { return marshalHex(i.String(), i.IsZero()) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Life) UnmarshalText(text []byte) error {
	*l = Life{}
	if len(text) == 0 {
		return nil
	}
	return parseHex(l[:], string(text), "life")
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *Incarnation) UnmarshalText(text []byte) error {
	*i = Incarnation{}
	if len(text) == 0 {
		return nil
	}
	return parseHex(i[:], string(text), "incarnation")
}

func marshalHex(s string, isZero bool) ([]byte, error) {
	if isZero {
		return nil, nil
	}
	return []byte(s), nil
}

// parseHex accepts the output of String for an id that is not zero, and nothing
// else: names of servers are compared as text.
func parseHex(into []byte, s, what string) error {
	b, err := hex.DecodeString(s)
	isZero := true
	for _, c := range b {
		isZero = isZero && c == 0
	}
	if err != nil || len(b) != len(into) || isZero || hex.EncodeToString(b) != s {
		return fmt.Errorf("%q is no %s: want %d lower-case hexadecimal digits that are not all 0", s, what, 2*len(into))
	}
	copy(into, b)
	return nil
}
