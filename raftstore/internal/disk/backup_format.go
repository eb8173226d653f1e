package disk

import (
	"errors"
	"io"
)

// A backup is a stream with the head, the chunks and the end of a snapshot file.
// Its content is that of a snapshot.
const backupMagic = "HFBACK\x00\x01"

// A BackupHead describes the state that a backup holds.
type BackupHead struct {
	Root        string
	Incarnation Incarnation
	Former      []Incarnation // see Identity
	Index, Term uint64        // of the newest entry that the state has
}

// A BackupWriter writes the content of a backup.
type BackupWriter struct{ w *chunkWriter }

// NewBackupWriter begins a backup.
func NewBackupWriter(to io.Writer, h BackupHead) (*BackupWriter, error) {
	head, err := encodeHead(backupMagic, &h)
	if err != nil {
		return nil, err
	}
	w := newChunkWriter(to, head)
	return &BackupWriter{w}, w.err
}

// Write implements io.Writer.
func (b *BackupWriter) Write(p []byte) (int, error) { return b.w.Write(p) }

// Close writes the end. A backup without it is not valid.
func (b *BackupWriter) Close() error { return b.w.finish() }

// NewBackupReader returns the head of a backup and its content. Reading the
// content ends with io.EOF only if the whole backup is as it was written, else
// with a *DamageError or the error of from.
func NewBackupReader(from io.Reader) (BackupHead, io.Reader, error) {
	var h BackupHead
	r, err := newChunkReader(from, "the backup", backupMagic, &h)
	if err == nil && (h.Incarnation.IsZero() || h.Index == 0) {
		err = errors.New("the backup names no incarnation or no entry")
	}
	if err != nil {
		return BackupHead{}, nil, err
	}
	return h, r, nil
}
