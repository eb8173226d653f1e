package transport

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A form is the kind of a token.
type form byte

const (
	formOther  form = iota // nil, a boolean, a fractional number, an extension
	formNumber             // a whole number
	formBytes              // bytes or text
	formList
	formMap
)

// token is one value in MessagePack, without the elements of a list or map.
type token struct {
	form     form
	head     int    // the bytes of the head
	payload  int64  // the bytes after the head
	elements int    // of a list; of a map keys and values
	number   uint64 // formNumber; a negative one is above every bound
}

func (t token) length() int64 { return int64(t.head) + t.payload }

// text returns the payload of a short text.
func (t token) text(peek func(n int) ([]byte, error), most int) (string, error) {
	if t.form != formBytes || t.payload > int64(most) {
		return "", fmt.Errorf("%w: no text of at most %d bytes in a Raft message", errBadFrame, most)
	}
	b, err := peek(int(t.length()))
	if err != nil {
		return "", err
	}
	return string(b[t.head:]), nil
}

// readToken reads the head of a token. A list has at most MaxBatch elements, a
// map at most maxFields fields.
func readToken(peek func(n int) ([]byte, error)) (token, error) {
	first, err := peek(1)
	if err != nil {
		return token{}, err
	}
	c := first[0]
	short := func(f form, n byte) (token, error) { return newToken(f, 1, uint64(n)) }
	long := func(f form, size, extra int) (token, error) {
		b, err := peek(1 + size + extra)
		if err != nil {
			return token{}, err
		}
		var wide [8]byte
		copy(wide[8-size:], b[1:1+size])
		return newToken(f, 1+size+extra, binary.BigEndian.Uint64(wide[:]))
	}
	switch {
	case c <= 0x7f:
		return short(formNumber, c)
	case c <= 0x8f:
		return short(formMap, c&0x0f)
	case c <= 0x9f:
		return short(formList, c&0x0f)
	case c <= 0xbf:
		return short(formBytes, c&0x1f)
	case c == 0xc1:
		return token{}, fmt.Errorf("%w: no MessagePack in a Raft message", errBadFrame)
	case c <= 0xc3: // nil, booleans
		return token{head: 1}, nil
	case c <= 0xc6:
		return long(formBytes, 1<<(c-0xc4), 0)
	case c <= 0xc9:
		return long(formOther, 1<<(c-0xc7), 1)
	case c <= 0xcb: // floating-point numbers
		return token{head: 1 + 4<<(c-0xca)}, nil
	case c <= 0xcf:
		return long(formNumber, 1<<(c-0xcc), 0)
	case c <= 0xd3:
		t, err := long(formNumber, 1<<(c-0xd0), 0)
		if shift := 64 - 8<<(c-0xd0); err == nil { // it has a sign
			t.number = uint64(int64(t.number<<shift) >> shift) // extends the sign
		}
		return t, err
	case c <= 0xd8:
		return token{head: 2, payload: 1 << (c - 0xd4)}, nil
	case c <= 0xdb:
		return long(formBytes, 1<<(c-0xd9), 0)
	case c <= 0xdd:
		return long(formList, 2<<(c-0xdc), 0)
	case c <= 0xdf:
		return long(formMap, 2<<(c-0xde), 0)
	default: // a small negative number
		return token{form: formNumber, head: 1, number: math.MaxUint64}, nil
	}
}

// newToken returns a token whose head has the number n.
func newToken(f form, head int, n uint64) (token, error) {
	t := token{form: f, head: head}
	most := uint64(math.MaxInt32)
	switch f {
	case formNumber:
		t.number = n
		return t, nil
	case formList:
		most = MaxBatch
	case formMap:
		most = maxFields
	case formBytes, formOther:
	}
	if n > most {
		return t, fmt.Errorf("%w: %d elements or bytes in one value of a Raft message", errBadFrame, n)
	}
	switch f {
	case formMap:
		t.elements = 2 * int(n)
	case formList:
		t.elements = int(n)
	default:
		t.payload = int64(n)
	}
	return t, nil
}
