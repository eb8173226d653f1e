package state

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/kv"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// snapshotVersion is the first byte of every snapshot.
const snapshotVersion = 1

// snapshot is the whole replicated state at one entry. Values are shared with
// the live tree, which never changes them.
type snapshot struct {
	term    uint64
	tree    kv.State
	ttls    map[dcs.LeaseID]time.Duration
	clients map[uint64]*client
}

// Snapshot freezes the state: raft.FSM. Raft calls it between two batches.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Failed(); err != nil {
		return nil, err
	}
	s := &snapshot{
		term:    f.term.Load(),
		tree:    f.tree.Dump(),
		ttls:    maps.Clone(f.ttls),
		clients: make(map[uint64]*client, len(f.clients.byID)),
	}
	for id, c := range f.clients.byID {
		s.clients[id] = &client{last: c.last, low: c.low, results: maps.Clone(c.results)}
	}
	return s, nil
}

// Persist writes the snapshot: raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s.encode()); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release is part of raft.FSMSnapshot; there is nothing to release.
func (s *snapshot) Release() {}

func (s *snapshot) encode() []byte {
	e := &codec.Encoder{}
	e.Byte(snapshotVersion)
	e.Uint(uint64(s.tree.Revision))
	e.Uint(s.term)
	e.Entries(s.tree.Entries)
	e.Uint(uint64(len(s.tree.Leases)))
	for _, l := range s.tree.Leases {
		e.Text(string(l))
		e.Duration(s.ttls[l])
	}
	e.Uint(uint64(len(s.clients)))
	for _, id := range slices.Sorted(maps.Keys(s.clients)) {
		c := s.clients[id]
		e.Uint(id)
		e.Uint(c.last)
		e.Uint(c.low)
		e.Uint(uint64(len(c.results)))
		for _, seq := range slices.Sorted(maps.Keys(c.results)) {
			e.Uint(seq)
			EncodeResult(e, c.results[seq])
		}
	}
	return e.B
}

func decodeSnapshot(b []byte) (*snapshot, error) {
	d := codec.NewDecoder(b, 0)
	d.Version("a snapshot", snapshotVersion)
	s := &snapshot{ttls: map[dcs.LeaseID]time.Duration{}, clients: map[uint64]*client{}}
	s.tree.Revision, s.term = d.Revision(), d.Uint()
	s.tree.Entries = d.Entries()
	for range d.Count() {
		l := d.Lease()
		s.tree.Leases = append(s.tree.Leases, l)
		s.ttls[l] = d.Duration()
	}
	for range d.Count() {
		id := d.Uint()
		c := &client{last: d.Uint(), low: d.Uint(), results: map[uint64]Result{}}
		for range d.Count() {
			seq := d.Uint()
			c.results[seq] = DecodeResult(d)
		}
		s.clients[id] = c
	}
	return s, d.End()
}

// Restore replaces the state by a snapshot: raft.FSM. A snapshot that can not
// be read changes nothing.
func (f *FSM) Restore(from io.ReadCloser) error {
	b, err := io.ReadAll(from)
	if err = errors.Join(err, from.Close()); err != nil {
		return err
	}
	s, err := decodeSnapshot(b)
	if err == nil {
		err = f.tree.Load(s.tree)
	}
	if err != nil {
		err = fmt.Errorf("snapshot: %w", err)
		f.note(err)
		return err
	}
	f.ttls, f.clients.byID = s.ttls, s.clients
	f.term.Store(s.term)
	f.applied.Store(uint64(s.tree.Revision))
	f.wake()
	return nil
}
