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
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// snapshotVersion is the first byte of every snapshot. A release that changes
// the format must write the old one until the cluster's feature level allows
// the new one, because a leader sends its snapshots to nodes of any release.
const snapshotVersion = 2

// A snapshot is a sequence of records, so that neither writing nor reading one
// needs more memory than the state and one record. The first one is the head:
// version, feature level, incarnation, revision and term. The others begin with
// their kind.
const (
	recordEntry  byte = iota + 1 // an entry of the tree, in order
	recordLease                  // a lease and its TTL, in order
	recordClient                 // a client, in order
	recordResult                 // a result of the client before it, in order
	recordEnd                    // comes last: the number of records before it
)

// snapshot is the whole replicated state at one entry. Values are shared with
// the live tree, which never changes them.
type snapshot struct {
	level       byte
	incarnation [16]byte
	term        uint64
	tree        kvtree.State
	ttls        map[dcs.LeaseID]time.Duration
	clients     map[uint64]*client
}

// Snapshot freezes the state: raft.FSM. Raft calls it between two batches.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Failed(); err != nil {
		return nil, err
	}
	s := &snapshot{
		level:       f.Level(),
		incarnation: f.Incarnation(),
		term:        f.term.Load(),
		tree:        f.tree.Dump(),
		ttls:        maps.Clone(f.ttls),
		clients:     make(map[uint64]*client, len(f.clients.byID)),
	}
	for id, c := range f.clients.byID {
		s.clients[id] = &client{last: c.last, low: c.low, results: maps.Clone(c.results)}
	}
	return s, nil
}

// Persist writes the snapshot: raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release is part of raft.FSMSnapshot; there is nothing to release.
func (s *snapshot) Release() {}

func (s *snapshot) write(to io.Writer) error {
	w := newRecordWriter(to)
	e := w.begin()
	e.Byte(snapshotVersion)
	e.Byte(s.level)
	e.Raw(s.incarnation[:])
	e.Uint(uint64(s.tree.Revision))
	e.Uint(s.term)
	w.end()
	for i := range s.tree.Entries {
		w.begin(recordEntry).Entry(s.tree.Entries[i])
		w.end()
	}
	for _, l := range s.tree.Leases {
		e := w.begin(recordLease)
		e.Text(string(l))
		e.Duration(s.ttls[l])
		w.end()
	}
	for _, id := range slices.Sorted(maps.Keys(s.clients)) {
		s.clients[id].write(w, id)
	}
	w.begin(recordEnd).Uint(w.count)
	w.end()
	return w.flush()
}

func (c *client) write(w *recordWriter, id uint64) {
	e := w.begin(recordClient)
	e.Uint(id)
	e.Uint(c.last)
	e.Uint(c.low)
	w.end()
	for _, seq := range slices.Sorted(maps.Keys(c.results)) {
		e := w.begin(recordResult)
		e.Uint(seq)
		EncodeResult(e, c.results[seq])
		w.end()
	}
}

// readSnapshot reads the output of write. Nothing of it aliases the reader's
// memory.
func readSnapshot(from io.Reader) (*snapshot, error) {
	r := newRecordReader(from)
	d, err := r.next()
	if err != nil {
		return nil, err
	}
	s, err := readHead(d)
	if err != nil {
		return nil, err
	}
	var last *client
	for {
		count := r.count
		d, err := r.next()
		if err != nil {
			return nil, err
		}
		kind := d.Byte()
		if kind == recordEnd {
			return s, r.last(d, count)
		}
		if last, err = s.read(kind, d, last); err != nil {
			return nil, fmt.Errorf("record %d: %w", count, err)
		}
	}
}

// readHead reads the first record.
func readHead(d *codec.Decoder) (*snapshot, error) {
	s := &snapshot{ttls: map[dcs.LeaseID]time.Duration{}, clients: map[uint64]*client{}}
	if v := d.Version("a snapshot", snapshotVersion); d.Err() == nil && v != snapshotVersion {
		return nil, fmt.Errorf("format version %d is of a development version that this release cannot read", v)
	}
	s.level, s.incarnation = d.Byte(), [16]byte(d.Raw(len(s.incarnation)))
	s.tree.Revision, s.term = d.Revision(), d.Uint()
	if s.level < firstLevel && d.Err() == nil {
		return nil, errors.New("the feature level is missing")
	}
	return s, d.End()
}

// read takes over one record. It returns the client that results after it
// belong to.
func (s *snapshot) read(kind byte, d *codec.Decoder, last *client) (*client, error) {
	switch kind {
	case recordEntry:
		s.tree.Entries = append(s.tree.Entries, detached(d.Entry()))
	case recordLease:
		l := d.Lease()
		s.tree.Leases = append(s.tree.Leases, l)
		s.ttls[l] = d.Duration()
	case recordClient:
		id := d.Uint()
		last = &client{last: d.Uint(), low: d.Uint(), results: map[uint64]Result{}}
		s.clients[id] = last
	case recordResult:
		if last == nil {
			return nil, errors.New("a result of no client")
		}
		seq, result := d.Uint(), DecodeResult(d)
		if result.Current != nil {
			*result.Current = detached(*result.Current)
		}
		last.results[seq] = result
	default:
		return nil, fmt.Errorf("unknown kind %d", kind)
	}
	return last, d.End()
}

// Restore replaces the state by a snapshot: raft.FSM. A snapshot that cannot be
// read, or is of another cluster, changes nothing. One of a newer release ends
// this node's part, because the others go on without waiting for it.
func (f *FSM) Restore(from io.ReadCloser) error {
	s, err := readSnapshot(from)
	err = errors.Join(err, from.Close())
	var newer *codec.FormatError
	ends := errors.As(err, &newer)
	if err == nil {
		err = errors.Join(f.checkLevel(s.level), f.checkIncarnation(s.incarnation))
		ends = err != nil
	}
	if err == nil {
		err = f.tree.Load(s.tree)
	}
	if err != nil {
		err = fmt.Errorf("snapshot: %w", err)
		f.note(err)
		if ends {
			f.fail(err)
		}
		return err
	}
	f.ttls, f.clients.byID = s.ttls, s.clients
	f.level.Store(uint32(s.level))
	f.setIncarnation(s.incarnation)
	f.term.Store(s.term)
	f.applied.Store(uint64(s.tree.Revision))
	f.OnChange(uint64(s.tree.Revision), nil)
	f.wake()
	return nil
}
