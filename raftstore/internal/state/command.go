// Package state is the replicated state of the embedded Raft store: the
// commands that are its log entries, and the state machine that applies them.
//
// It is pure. It reads no clock, no randomness and no network, starts no
// goroutine and logs nothing, so that equal entries make equal states on every
// node.
package state

import (
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// A Kind is the operation of a log entry.
type Kind byte

const (
	// KindTerm is the first command of a leader's term (P21): once it is
	// applied, everything that earlier terms left in the log is too.
	KindTerm Kind = iota + 1
	// KindOpen makes a client. Its id is the index of the entry, so that no id
	// is ever used twice, however many copies of the entry the log has.
	KindOpen
	// KindTxn applies a Txn.
	KindTxn
	// KindGrant makes a lease live, with its TTL.
	KindGrant
	// KindRevoke ends a lease.
	KindRevoke
	// KindExpire ends leases whose time is up, in the term that says so.
	KindExpire
	// KindCancel settles (client, seq): it returns the result of that command, or
	// makes sure that it never does anything (P15).
	KindCancel
	// KindLevel raises the feature level of the state.
	KindLevel
)

// Nonce matches the answer of a KindOpen to its caller.
type Nonce [16]byte

// Command is one log entry. Kind says which of the fields below it are used.
// Fields of numbered kinds: Seq names the command among those of its Client, and
// the Client needs no answer any more to a number below Low.
type Command struct {
	Kind Kind

	// Of numbered kinds.
	Client, Seq, Low uint64

	Nonce  Nonce         // KindOpen
	Term   uint64        // KindTerm, KindExpire
	Txn    dcs.Txn       // KindTxn
	Lease  dcs.LeaseID   // KindGrant, KindRevoke
	TTL    time.Duration // KindGrant
	Leases []dcs.LeaseID // KindExpire
	Level  byte          // KindLevel
}

// Numbered reports whether k belongs to a client's sequence.
func (k Kind) Numbered() bool {
	return k == KindTxn || k == KindGrant || k == KindRevoke || k == KindCancel
}

// Key identifies the caller that waits for a command to be applied.
type Key struct {
	Cancel      bool
	Client, Seq uint64
	Nonce       Nonce
}

// Key returns the key of the caller that waits for c.
func (c *Command) Key() Key {
	if c.Kind == KindOpen {
		return Key{Nonce: c.Nonce}
	}
	return Key{Cancel: c.Kind == KindCancel, Client: c.Client, Seq: c.Seq}
}

// Encode returns c as a log entry.
func (c *Command) Encode() []byte {
	e := &codec.Encoder{B: make([]byte, 0, c.size())}
	e.Byte(c.Kind.level())
	e.Byte(byte(c.Kind))
	if c.Kind.Numbered() {
		e.Uint(c.Client)
		e.Uint(c.Seq)
		e.Uint(c.Low)
	}
	switch c.Kind {
	case KindTerm:
		e.Uint(c.Term)
	case KindOpen:
		e.Raw(c.Nonce[:])
	case KindTxn:
		encodeTxn(e, c.Txn)
	case KindGrant:
		e.Text(string(c.Lease))
		e.Duration(c.TTL)
	case KindRevoke:
		e.Text(string(c.Lease))
	case KindExpire:
		e.Uint(c.Term)
		e.Uint(uint64(len(c.Leases)))
		for _, l := range c.Leases {
			e.Text(string(l))
		}
	case KindLevel:
		e.Byte(c.Level)
	case KindCancel:
	}
	return e.B
}

// size is a little more than encode needs, so that it allocates once.
func (c *Command) size() int {
	n := 64 + len(c.Lease)
	for i := range c.Txn.If {
		n += 16 + len(c.Txn.If[i].Key)
	}
	for i := range c.Txn.Then {
		w := &c.Txn.Then[i]
		n += 16 + len(w.Key) + len(w.Value) + len(w.Lease)
	}
	for _, l := range c.Leases {
		n += 4 + len(l)
	}
	return n
}

// DecodeCommand reads one log entry. Values alias data. The error is a
// *codec.FormatError where a newer release wrote it.
func DecodeCommand(data []byte) (Command, error) {
	return readCommand(codec.NewDecoder(data, 0), Level)
}

// readCommand reads one log entry of any level up to understands.
func readCommand(d *codec.Decoder, understands byte) (Command, error) {
	d.Version("a log entry", understands)
	c := Command{Kind: Kind(d.Byte())}
	if c.Kind.Numbered() {
		c.Client, c.Seq, c.Low = d.Uint(), d.Uint(), d.Uint()
	}
	switch c.Kind {
	case KindTerm:
		c.Term = d.Uint()
	case KindOpen:
		c.Nonce = Nonce(d.Raw(len(c.Nonce)))
	case KindTxn:
		c.Txn = decodeTxn(d)
	case KindGrant:
		c.Lease, c.TTL = d.Lease(), d.Duration()
	case KindRevoke:
		c.Lease = d.Lease()
	case KindExpire:
		c.Term = d.Uint()
		for range d.List() {
			c.Leases = append(c.Leases, d.Lease())
		}
	case KindLevel:
		c.Level = d.Byte()
	case KindCancel:
	default:
		if d.Err() == nil {
			return c, fmt.Errorf("a log entry of unknown kind %d", c.Kind)
		}
	}
	return c, d.End()
}

func encodeTxn(e *codec.Encoder, t dcs.Txn) {
	e.Uint(uint64(len(t.If)))
	for _, c := range t.If {
		e.Text(c.Key)
		e.Byte(byte(c.On))
		e.Uint(uint64(c.Is))
	}
	e.Uint(uint64(len(t.Then)))
	for _, w := range t.Then {
		e.Text(w.Key)
		e.Bool(w.Delete)
		e.Bytes(w.Value)
		e.Text(string(w.Lease))
	}
}

func decodeTxn(d *codec.Decoder) dcs.Txn {
	var t dcs.Txn
	for range d.List() {
		t.If = append(t.If, dcs.Cond{Key: d.Text(), On: dcs.Field(d.Byte()), Is: d.Revision()})
	}
	for range d.List() {
		t.Then = append(t.Then, dcs.Write{Key: d.Text(), Delete: d.Bool(), Value: d.Bytes(), Lease: d.Lease()})
	}
	return t
}

// Status is the effect of a command.
type Status byte

const (
	// StatusDone means applied; the revision is the entry's index.
	StatusDone Status = iota + 1
	// StatusConflict means that a condition failed and nothing was written.
	StatusConflict
	// StatusDeadLease means that a put was bound to a lease that is not live (P14).
	StatusDeadLease
	// StatusNested means that a key would lie below another one.
	StatusNested
	// StatusCancelled means cancelled before it was applied; it never will be.
	StatusCancelled
	// StatusSettled means that the client had said that it needs no answer.
	StatusSettled
	// StatusUnknownClient means that the client was forgotten; whether the
	// command was applied before that is not known, and it never will be from
	// now on.
	StatusUnknownClient
	// StatusAhead means that too many of the client's commands are unsettled.
	StatusAhead
)

// Result is the answer to a command, kept until the client needs it no more.
type Result struct {
	Status   Status
	Revision dcs.Revision
	Current  *dcs.Entry // StatusConflict: the entry that was found, nil when absent
	Detail   string     // StatusConflict: the condition in words
}

// EncodeResult appends r.
func EncodeResult(e *codec.Encoder, r Result) {
	e.Byte(byte(r.Status))
	e.Uint(uint64(r.Revision))
	e.Text(r.Detail)
	e.Bool(r.Current != nil)
	if r.Current != nil {
		e.Entry(*r.Current)
	}
}

// DecodeResult reads the bytes of EncodeResult. Values alias the Decoder's
// bytes.
func DecodeResult(d *codec.Decoder) Result {
	r := Result{Status: Status(d.Byte()), Revision: d.Revision(), Detail: d.Text()}
	if d.Bool() {
		current := d.Entry()
		r.Current = &current
	}
	return r
}
