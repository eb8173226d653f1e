package disk

import (
	"encoding/hex"
	"fmt"
)

// A Life names the data of one node from their first byte to their loss.
type Life [8]byte

// An Incarnation names one founding of a cluster.
type Incarnation [16]byte

// String returns l in hexadecimal digits.
func (l Life) String() string { return hex.EncodeToString(l[:]) }

// String returns i in hexadecimal digits.
func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// ParseLife is the inverse of String.
func ParseLife(s string) (l Life, err error) {
	err = parseHex(l[:], s)
	return l, err
}

// ParseIncarnation is the inverse of String.
func ParseIncarnation(s string) (i Incarnation, err error) {
	err = parseHex(i[:], s)
	return i, err
}

func parseHex(to []byte, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(to) {
		return fmt.Errorf("%q is not %d bytes in hexadecimal digits", s, len(to))
	}
	copy(to, b)
	return nil
}
