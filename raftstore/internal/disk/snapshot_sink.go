package disk

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
)

// snapshotSink writes one snapshot: raft.SnapshotSink. One goroutine may use it.
type snapshotSink struct {
	store *Snapshots
	meta  snapshotMeta
	id    string
	temp  string
	file  File
	out   *chunkWriter
	err   error // of the end
	ended bool
}

// Create begins a snapshot: raft.SnapshotStore. It is listed, and found after a
// crash, from a successful Close on.
func (s *Snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("a snapshot of version %d of Raft's format, want %d", version, raft.SnapshotVersionMax)
	}
	k := &snapshotSink{store: s, id: snapshotID(index, term)}
	k.meta = snapshotMeta{
		Version: version, Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex, Incarnation: s.incarnation.String(),
	}
	head, err := encodeHead(snapshotMagic, &k.meta)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.drawn++
	k.temp = filepath.Join(s.dir, fmt.Sprintf("%s.%d%s", k.id, s.drawn, tempSuffix))
	s.mu.Unlock()
	if k.file, err = s.files.Create(k.temp); err != nil {
		return nil, err
	}
	k.out = newChunkWriter(io.NewOffsetWriter(k.file, 0), head)
	if k.out.err != nil {
		return nil, errors.Join(k.out.err, k.Cancel())
	}
	return k, nil
}

// ID implements raft.SnapshotSink.
func (k *snapshotSink) ID() string { return k.id }

// Write implements io.Writer.
func (k *snapshotSink) Write(p []byte) (n int, err error) {
	if k.ended {
		return 0, errors.New("the snapshot was closed or cancelled")
	}
	return k.out.Write(p)
}

// Close makes the snapshot durable and lists it. It is cancelled on an error.
// Close and Cancel do nothing after the first of them, and return its error.
func (k *snapshotSink) Close() error {
	if k.ended {
		return k.err
	}
	if k.err = k.out.finish(); k.err == nil {
		k.err = k.file.Sync()
	}
	if k.err != nil {
		err := k.err
		return errors.Join(err, k.Cancel())
	}
	k.ended = true
	if k.err = k.file.Close(); k.err != nil {
		k.discard(k.temp)
		return k.err
	}
	k.err = k.publish()
	return k.err
}

// publish gives the file its name.
func (k *snapshotSink) publish() error {
	s := k.store
	s.names.Lock()
	defer s.names.Unlock()
	path := s.path(k.id)
	if err := s.files.Rename(k.temp, path); err != nil {
		s.stale = append(s.stale, k.temp)
		s.sweep()
		return err
	}
	s.stale = slices.DeleteFunc(s.stale, func(old string) bool { return old == path })
	size := int64(k.out.sums.size)
	s.insert(storedSnapshot{meta: k.meta.raft(size), bytes: k.out.size})
	// The file is complete, and valid whether it is found after a crash or not.
	// Older ones must stay until it is certain.
	if err := s.files.SyncDir(s.dir); err != nil {
		return err
	}
	s.prune(k.id)
	s.sweep()
	return nil
}

// Cancel ends the snapshot and removes its files.
func (k *snapshotSink) Cancel() error {
	if k.ended {
		return nil
	}
	k.ended = true
	err := k.file.Close()
	k.discard(k.temp)
	return err
}

// discard removes a file now or later.
func (k *snapshotSink) discard(path string) {
	s := k.store
	s.names.Lock()
	defer s.names.Unlock()
	s.stale = append(s.stale, path)
	s.sweep()
}
