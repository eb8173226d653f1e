package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// keptEntries and keptBytes bound the entries that stay in the log although a
	// snapshot has them, so that a node that was away for a short time needs no
	// snapshot.
	keptEntries = 8192
	keptBytes   = 64 << 20
	// snapshotBytes is the number of bytes in the log after which a snapshot is made
	// even if the entries are too few for one.
	snapshotBytes = 64 << 20
)

// stores are the parts of the data directory that a member uses.
type stores struct {
	log    *disk.Log
	store  *raftLog // log and vote, as Raft sees them
	snaps  *disk.Snapshots
	marks  *disk.Mirror
	starts uint32 // of the node with this life

	snapshotSeen atomic.Pointer[snapshotSeen] // nil without one
}

// snapshotSeen is the newest snapshot, and when this process saw it first.
type snapshotSeen struct {
	index uint64
	at    dcs.Instant
}

// openStores opens the log, the vote and the snapshots. The log of a founder
// begins with the configuration that all founders write.
func (m *member) openStores() (err error) {
	d, own := m.node.dir, m.node.participation.get().identity
	if err := m.openFiles(own); err != nil {
		return d.explain(err)
	}
	m.node.net.Become(func(h *transport.Hello) { h.Starts = m.starts })
	if own.IsFounder() && m.log.End().Index == 0 {
		if err = m.store.SetUint64([]byte(keyTerm), 1); err == nil {
			err = m.store.StoreLog(m.node.firstEntry(own))
		}
	}
	if err != nil {
		return openError(dcs.ErrUnavailable, "the first start in %s failed: %w", d.path, err)
	}
	return nil
}

func (m *member) openFiles(own disk.Identity) error {
	d := m.node.dir
	snaps, err := disk.OpenSnapshots(d.files, d.snapsDir(), own.Incarnation)
	if err != nil {
		return err
	}
	votes, vote, err := disk.OpenVote(d.files, d.path)
	if err != nil {
		return err
	}
	marks, mark, err := disk.OpenMark(d.files, d.path)
	if err != nil {
		return errors.Join(err, votes.Close())
	}
	m.undo.add(m.unlessHung(marks.Close))
	known := mark.Log
	mark.Starts++
	log, notes, err := disk.OpenLog(disk.LogOptions{
		Files: d.files, Dir: d.logDir(), Life: own.Life, Mark: known,
		KeepEntries: min(keptEntries, m.node.config.SnapshotThreshold), KeepBytes: keptBytes, SegmentBytes: m.node.hooks.segmentBytes,
		Check: func(e *raft.Log) error { return checkStored(e, own.Incarnation) },
		Owned: disk.OwnedBy(d.files, d.path, own.Life),
		SaveMark: func(end disk.LogEnd) error {
			mark.Log = end
			mark.VoteSeq, _ = votes.Load()
			return marks.Store(mark.Encode())
		},
	})
	if err != nil {
		return errors.Join(err, votes.Close())
	}
	for _, note := range notes {
		m.node.log.Warn("log was cut at its end: a crash had left a part of a write", "file", note.File, "offset", note.Offset, "bytes", note.Bytes, "what", note.What)
	}
	m.stores = stores{log: log, snaps: snaps, marks: marks, starts: mark.Starts}
	m.store = newRaftLog(log, votes, vote, m.newestSnapshot, m.restart, m.node.health)
	m.undo.add(m.unlessHung(m.store.Close))
	if index, term := m.newestSnapshot(); index > 0 {
		return log.Join(index, term)
	}
	return nil
}

// newestSnapshot returns index and term of the newest snapshot, 0 without one.
func (m *member) newestSnapshot() (index, term uint64) {
	return newestOf(m.snaps)
}

func newestOf(snaps *disk.Snapshots) (index, term uint64) {
	if list, err := snaps.List(); err == nil && len(list) > 0 {
		return list[0].Index, list[0].Term
	}
	return 0, 0
}

// checkStored checks an entry of the log when it is opened.
func checkStored(e *raft.Log, incarnation disk.Incarnation) error {
	if err := transport.CheckEntry(e); err != nil {
		return err
	}
	if e.Index == 1 && !bytes.Equal(e.Extensions, state.FoundingExtensions(incarnation)) {
		return fmt.Errorf("the first entry is not of incarnation %v of the cluster", incarnation)
	}
	return nil
}

// scan reads the positions of the log and the snapshots, and records the newest
// configuration in them.
func (d *dataDir) scan(own disk.Identity, mark disk.Mark) (stored disk.Stored, err error) {
	var servers []raft.Server
	switch _, err := d.files.List(d.snapsDir()); {
	case errors.Is(err, fs.ErrNotExist): // nothing was stored yet
	case err != nil:
		return stored, err
	default:
		snaps, err := disk.OpenSnapshots(d.files, d.snapsDir(), own.Incarnation)
		if err != nil {
			return stored, err
		}
		stored.Snapshot, _ = newestOf(snaps)
		if list, err := snaps.List(); err == nil && len(list) > 0 {
			servers = list[0].Configuration.Servers
		}
	}
	log, err := disk.ScanLog(d.files, d.logDir(), own.Life, mark.Log, func(e *raft.Log) error {
		err := checkStored(e, own.Incarnation)
		if err == nil && e.Type == raft.LogConfiguration && e.Index > stored.Snapshot {
			servers = raft.DecodeConfiguration(e.Data).Servers
		}
		return err
	})
	if err != nil {
		return stored, err
	}
	stored.First, stored.Log, d.servers = log.First, log.End, servers
	return stored, nil
}

// explain returns the error of a start that failed with err.
func (d *dataDir) explain(err error) error {
	var damage *disk.DamageError
	if errors.As(err, &damage) {
		return openError(dcs.ErrUnavailable, "%w", &disk.RejoinError{Dir: d.path, Err: err})
	}
	return openError(dcs.ErrUnavailable, "the data in %s cannot be opened: Dir must be readable and writable by this user and have room: %w", d.path, err)
}

// snapshotByBytes makes a snapshot when few entries have many bytes.
func (m *member) snapshotByBytes() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var newest, from uint64 // the newest snapshot, and the bytes that were appended before it
	for {
		select {
		case <-tick.C:
		case <-m.life.Done():
			return
		}
		if index, _ := m.newestSnapshot(); index != newest {
			newest, from = index, m.log.Written()
			m.snapshotSeen.Store(&snapshotSeen{index: index, at: dcs.Now()})
		}
		if m.log.Written()-from < snapshotBytes {
			continue
		}
		made := make(chan error, 1)
		go func() { made <- m.raft.Snapshot().Error() }() // it ends with Raft at the latest
		select {
		case err := <-made:
			if err != nil {
				m.node.log.Warn("snapshot failed", "error", err)
			}
		case <-m.life.Done():
			return
		}
	}
}
