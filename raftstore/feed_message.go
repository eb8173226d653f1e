package raftstore

import (
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// feedVersion is the first byte of every message of a stream and of its request.
const feedVersion = 1

// feedRequest is a client's request for a stream.
type feedRequest struct {
	kind feedKind
	// revision is the last one whose changes the client has, for feedChange, and the
	// oldest one that it accepts, for feedTree.
	revision dcs.Revision
	prefix   string        // feedTree: the part of the tree that is sent
	every    time.Duration // feedChange: the time between two beats
}

// feedKind is a kind of message on a stream, and of stream.
type feedKind byte

const (
	// feedChange has the changes of entries, in order.
	feedChange feedKind = iota + 1
	// feedTree has a part of the tree at one revision. The last part is marked.
	feedTree
	// feedBeat confirms that the node was in contact with the quorum a moment ago, and
	// that the stream has all changes up to the revision.
	feedBeat
)

// feedMessage is one message of a stream.
type feedMessage struct {
	kind     feedKind
	changes  []treeChange // feedChange
	revision dcs.Revision // feedTree, feedBeat
	entries  []dcs.Entry  // feedTree
	last     bool         // feedTree
}

func (r feedRequest) encode() []byte {
	e := &codec.Encoder{}
	e.Byte(feedVersion)
	e.Byte(byte(r.kind))
	e.Uint(uint64(r.revision))
	e.Text(r.prefix)
	e.Duration(r.every)
	return e.B
}

func decodeFeedRequest(body []byte) (feedRequest, error) {
	d := codec.NewDecoder(body, 0)
	d.Version("a client's request for changes", feedVersion)
	r := feedRequest{kind: feedKind(d.Byte()), revision: d.Revision(), prefix: d.Text(), every: d.Duration()}
	if err := d.End(); err != nil {
		return r, err
	}
	if r.kind != feedChange && r.kind != feedTree {
		return r, fmt.Errorf("a client's request for a stream of unknown kind %d", r.kind)
	}
	return r, nil
}

func startMessage(kind feedKind, size int) *codec.Encoder {
	e := &codec.Encoder{B: make([]byte, 0, 32+size)}
	e.Byte(feedVersion)
	e.Byte(byte(kind))
	return e
}

// encodeChanges encodes each change once, however many clients get it.
func encodeChanges(list []treeChange, size int) []byte {
	e := startMessage(feedChange, size)
	e.Uint(uint64(len(list)))
	for i := range list {
		c := &list[i]
		if c.encoded == nil {
			one := &codec.Encoder{B: make([]byte, 0, 16+c.bytes())}
			one.Uint(c.index)
			one.Entries(c.wrote)
			one.Uint(uint64(len(c.deleted)))
			for _, key := range c.deleted {
				one.Text(key)
			}
			c.encoded = one.B
		}
		e.Raw(c.encoded)
	}
	return e.B
}

func encodeTree(revision dcs.Revision, entries []dcs.Entry, last bool) []byte {
	e := startMessage(feedTree, entriesSize(entries))
	e.Uint(uint64(revision))
	e.Bool(last)
	e.Entries(entries)
	return e.B
}

func encodeBeat(revision dcs.Revision) []byte {
	e := startMessage(feedBeat, 0)
	e.Uint(uint64(revision))
	return e.B
}

// decodeFeedMessage reads the result of one of the functions above. Values alias body.
func decodeFeedMessage(body []byte) (feedMessage, error) {
	d := codec.NewDecoder(body, 0)
	d.Version("a message of a node's changes", feedVersion)
	m := feedMessage{kind: feedKind(d.Byte())}
	switch m.kind {
	case feedChange:
		for range d.Count() {
			c := treeChange{index: d.Uint(), wrote: d.Entries()}
			for range d.Count() {
				c.deleted = append(c.deleted, d.Text())
			}
			m.changes = append(m.changes, c)
		}
	case feedTree:
		m.revision, m.last, m.entries = d.Revision(), d.Bool(), d.Entries()
	case feedBeat:
		m.revision = d.Revision()
	default:
		if d.Err() == nil {
			return m, fmt.Errorf("a message of a node's changes of unknown kind %d", m.kind)
		}
	}
	return m, d.End()
}
