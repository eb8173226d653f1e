package raftstore

import (
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// commandVersion is the first byte of every log entry. A release reads the
// versions up to its own and refuses newer ones.
const commandVersion = 1

// commandKind says what a log entry does.
type commandKind byte

const (
	// cmdTerm is the first command of a leader's term (P21): once it is
	// applied, everything that earlier terms left in the log is too.
	cmdTerm commandKind = iota + 1
	// cmdOpen makes a client. Its id is the index of the entry, so that no id
	// is ever used twice, whatever copies of the entry the log holds.
	cmdOpen
	cmdTxn
	cmdGrant
	cmdRevoke
	// cmdExpire ends leases whose time is up, in the term that says so.
	cmdExpire
	// cmdCancel settles (client, seq): it returns what that command did, or
	// makes sure that it never does anything (P15).
	cmdCancel
)

// nonce matches the answer of a cmdOpen to who asked.
type nonce [16]byte

// command is one log entry.
type command struct {
	kind commandKind

	// client, seq and low number the commands of one client: seq names this
	// one, and everything below low was answered to the client's satisfaction.
	client, seq, low uint64

	nonce  nonce         // cmdOpen
	term   uint64        // cmdTerm, cmdExpire
	txn    dcs.Txn       // cmdTxn
	lease  dcs.LeaseID   // cmdGrant, cmdRevoke
	ttl    time.Duration // cmdGrant
	leases []dcs.LeaseID // cmdExpire
}

// numbered reports whether k belongs to a client's sequence.
func (k commandKind) numbered() bool {
	return k == cmdTxn || k == cmdGrant || k == cmdRevoke || k == cmdCancel
}

func (c *command) encode() []byte {
	e := &encoder{b: make([]byte, 0, c.size())}
	e.byte(commandVersion)
	e.byte(byte(c.kind))
	if c.kind.numbered() {
		e.uint(c.client)
		e.uint(c.seq)
		e.uint(c.low)
	}
	switch c.kind {
	case cmdTerm:
		e.uint(c.term)
	case cmdOpen:
		e.raw(c.nonce[:])
	case cmdTxn:
		encodeTxn(e, c.txn)
	case cmdGrant:
		e.string(string(c.lease))
		e.duration(c.ttl)
	case cmdRevoke:
		e.string(string(c.lease))
	case cmdExpire:
		e.uint(c.term)
		e.uint(uint64(len(c.leases)))
		for _, l := range c.leases {
			e.string(string(l))
		}
	case cmdCancel:
	}
	return e.b
}

// size is a little more than encode needs, so that it allocates once.
func (c *command) size() int {
	n := 64 + len(c.lease)
	for i := range c.txn.If {
		n += 16 + len(c.txn.If[i].Key)
	}
	for i := range c.txn.Then {
		w := &c.txn.Then[i]
		n += 16 + len(w.Key) + len(w.Value) + len(w.Lease)
	}
	for _, l := range c.leases {
		n += 4 + len(l)
	}
	return n
}

// decodeCommand reads one log entry. Values alias data. The error is a
// *formatError where a newer release wrote it.
func decodeCommand(data []byte) (command, error) { return readCommand(&decoder{b: data}) }

func readCommand(d *decoder) (command, error) {
	d.version("a log entry", commandVersion)
	c := command{kind: commandKind(d.byte())}
	if c.kind.numbered() {
		c.client, c.seq, c.low = d.uint(), d.uint(), d.uint()
	}
	switch c.kind {
	case cmdTerm:
		c.term = d.uint()
	case cmdOpen:
		c.nonce = nonce(d.raw(len(c.nonce)))
	case cmdTxn:
		c.txn = decodeTxn(d)
	case cmdGrant:
		c.lease, c.ttl = d.lease(), d.duration()
	case cmdRevoke:
		c.lease = d.lease()
	case cmdExpire:
		c.term = d.uint()
		for range d.list() {
			c.leases = append(c.leases, d.lease())
		}
	case cmdCancel:
	default:
		if d.err == nil {
			return c, fmt.Errorf("a log entry of unknown kind %d", c.kind)
		}
	}
	return c, d.end()
}

func encodeTxn(e *encoder, t dcs.Txn) {
	e.uint(uint64(len(t.If)))
	for _, c := range t.If {
		e.string(c.Key)
		e.byte(byte(c.On))
		e.uint(uint64(c.Is))
	}
	e.uint(uint64(len(t.Then)))
	for _, w := range t.Then {
		e.string(w.Key)
		e.bool(w.Delete)
		e.bytes(w.Value)
		e.string(string(w.Lease))
	}
}

func decodeTxn(d *decoder) dcs.Txn {
	var t dcs.Txn
	for range d.list() {
		t.If = append(t.If, dcs.Cond{Key: d.string(), On: dcs.Field(d.byte()), Is: d.revision()})
	}
	for range d.list() {
		t.Then = append(t.Then, dcs.Write{Key: d.string(), Delete: d.bool(), Value: d.bytes(), Lease: d.lease()})
	}
	return t
}

// status is what a command did.
type status byte

const (
	// statusDone: applied; the revision is the entry's index.
	statusDone status = iota + 1
	// statusConflict: a condition failed and nothing was written.
	statusConflict
	// statusDeadLease: a put was bound to a lease that is not live (P14).
	statusDeadLease
	// statusNested: a key would lie below another one.
	statusNested
	// statusCancelled: it was cancelled before it was applied; it never will be.
	statusCancelled
	// statusSettled: the client itself had said that it needs no answer any more.
	statusSettled
	// statusUnknownClient: the client was forgotten; whether the command was
	// applied before that is not known, and it never will be from now on.
	statusUnknownClient
	// statusAhead: too many of the client's commands are unsettled.
	statusAhead
)

// result is the answer to a command, kept until the client needs it no more.
type result struct {
	status   status
	revision dcs.Revision
	current  *dcs.Entry // statusConflict: what was found, nil when absent
	detail   string     // statusConflict: the condition in words
}

func encodeResult(e *encoder, r result) {
	e.byte(byte(r.status))
	e.uint(uint64(r.revision))
	e.string(r.detail)
	e.bool(r.current != nil)
	if r.current != nil {
		e.entry(*r.current)
	}
}

func decodeResult(d *decoder) result {
	r := result{status: status(d.byte()), revision: d.revision(), detail: d.string()}
	if d.bool() {
		current := d.entry()
		r.current = &current
	}
	return r
}
