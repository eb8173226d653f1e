package raftstore

import (
	"encoding/binary"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft-wal/segment"
	waltypes "github.com/hashicorp/raft-wal/types"
)

const (
	// segmentSize is what a log file is allocated at. It bounds the disk that
	// an idle node takes.
	segmentSize = 16 << 20

	// The first bytes of every segment, as raft-wal writes them.
	segmentMagic  = 0x58eb6b0d
	segmentHeader = 32
)

// segments opens the log's files. It mends two things that raft-wal 0.4.0
// does at a start.
type segments struct {
	*segment.Filer
	dir string
	vfs waltypes.VFS
}

func newSegments(dir string, vfs waltypes.VFS) *segments {
	return &segments{Filer: segment.NewFiler(dir, vfs), dir: dir, vfs: vfs}
}

// Open implements types.SegmentFiler. A segment whose tail was truncated, as
// happens to every follower that had more than the new leader, is listed as
// sealed but has no index block, and raft-wal can not read it after a restart
// (its issue 31). Its entries are all there: they are found by reading it
// through, as the unsealed one is.
func (s *segments) Open(info waltypes.SegmentInfo) (waltypes.SegmentReader, error) {
	if info.IndexStart != 0 {
		return s.Filer.Open(info)
	}
	w, err := s.RecoverTail(info)
	if err != nil {
		return nil, err
	}
	if w.LastIndex() < info.MaxIndex {
		w.Close()
		return nil, fmt.Errorf("%w: %s ends at entry %d, %d is the last one it held", waltypes.ErrCorrupt, segment.FileName(info), w.LastIndex(), info.MaxIndex)
	}
	return w, nil
}

// RecoverTail implements types.SegmentFiler. raft-wal takes a segment for new,
// and overwrites it, when it can not make out a first commit in it. A crash
// during the very first write leaves a file like that, but never one whose
// first bytes are other than zero or the header: those were damaged later, and
// the entries behind them may have been acknowledged.
func (s *segments) RecoverTail(info waltypes.SegmentInfo) (waltypes.SegmentWriter, error) {
	if err := s.checkHeader(info); err != nil {
		return nil, err
	}
	return s.Filer.RecoverTail(info)
}

func (s *segments) checkHeader(info waltypes.SegmentInfo) error {
	f, err := s.vfs.OpenReader(s.dir, segment.FileName(info))
	if err != nil {
		return err
	}
	defer f.Close()
	var got [segmentHeader]byte
	n, err := f.ReadAt(got[:], 0)
	if n < segmentHeader {
		// Shorter than a header: nothing was ever committed to it.
		return nil //nolint:nilerr // what else is wrong, the recovery finds
	}
	if got == [segmentHeader]byte{} {
		return nil
	}
	var want [segmentHeader]byte
	binary.LittleEndian.PutUint64(want[0:], segmentMagic)
	binary.LittleEndian.PutUint64(want[8:], info.BaseIndex)
	binary.LittleEndian.PutUint64(want[16:], info.ID)
	binary.LittleEndian.PutUint64(want[24:], info.Codec)
	if got != want {
		return fmt.Errorf("%w: the header of %s is damaged (% x)", waltypes.ErrCorrupt, filepath.Join(s.dir, segment.FileName(info)), got)
	}
	return err
}
