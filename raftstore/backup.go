package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// BackupInfo describes a backup.
type BackupInfo struct {
	// Root and Incarnation are those of the cluster from which the backup was made.
	Root        string
	Incarnation string
	// Revision is the newest one that the backup includes, Term that of its log entry.
	Revision dcs.Revision
	Term     uint64
	// Keys and Leases count those in the backup. LongestTTL is that of a lease. Backup
	// leaves them 0; VerifyBackup and Restore count.
	Keys       int
	Leases     int
	LongestTTL time.Duration
}

// Backup writes the whole state of the cluster to w, as it was at one moment between
// the call and its return. All writes that were acknowledged before the call are in
// it. Any node that takes part serves the call. The stream has checksums and a
// version. [Restore] begins a new cluster with it. It is valid only if Backup
// returned without an error. Callers should write it to a temporary name, sync it,
// and then rename it.
//
// Backup makes a snapshot on this node's disk and reads it. RetryTimeout bounds the
// first of these steps, as it bounds other calls. Only ctx bounds the time that w may
// take. Backup checks ctx between two writes.
func (b *Backend) Backup(ctx context.Context, w io.Writer) (BackupInfo, error) {
	meta, content, err := b.backupSource(ctx)
	if err != nil {
		return BackupInfo{}, err
	}
	own := b.node.participation.get().identity
	info := BackupInfo{Root: b.config.Root, Incarnation: own.Incarnation.String(), Revision: dcs.Revision(meta.Index), Term: meta.Term}
	err = writeBackup(w, disk.BackupHead{
		Root: b.config.Root, Incarnation: own.Incarnation, Former: own.Former, Index: meta.Index, Term: meta.Term,
	}, &boundedReader{ctx: ctx, life: b.life, from: content})
	if err = errors.Join(err, content.Close()); err != nil {
		return BackupInfo{}, b.fail("Backup", "", dcs.ErrUnavailable, "", withContext(ctx, err))
	}
	return info, nil
}

// backupSource returns a snapshot with all writes that were acknowledged before the
// call.
func (b *Backend) backupSource(ctx context.Context) (*raft.SnapshotMeta, io.ReadCloser, error) {
	ctx, cancel := b.budget(ctx)
	defer cancel()
	o := b.node.ask(ctx, &request{op: opPosition}, nothing)
	if o.err != nil {
		return nil, nil, b.unavailable(ctx, "Backup", "", o)
	}
	err := b.node.await(ctx, o.reply.revision)
	if err == nil {
		b.minRevision.Raise(o.reply.revision)
		m := b.node.member()
		if m == nil {
			err = b.node.whyNoLeader()
		} else {
			var meta *raft.SnapshotMeta
			var content io.ReadCloser
			if meta, content, err = m.snapshotFrom(ctx, uint64(o.reply.revision)); err == nil {
				return meta, content, nil
			}
		}
	}
	return nil, nil, b.fail("Backup", "", dcs.ErrUnavailable, "", withContext(ctx, err))
}

// errPartEnded reports that Raft ended on this node.
var errPartEnded = errors.New("this node's part in Raft has ended")

// snapshotFrom returns a snapshot that ends at index, which this node has applied, or
// later. It makes one if there is none.
func (m *member) snapshotFrom(ctx context.Context, index uint64) (*raft.SnapshotMeta, io.ReadCloser, error) {
	for {
		if list, err := m.snaps.List(); err == nil && len(list) > 0 && list[0].Index >= index {
			return m.snaps.Open(list[0].ID)
		}
		made := make(chan error, 1)
		go func() { made <- m.raft.Snapshot().Error() }() // it ends with Raft at the latest
		var err error
		select {
		case err = <-made:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-m.life.Done():
			return nil, nil, errPartEnded
		}
		if err != nil {
			// Raft makes none while a change of the configuration is in progress.
			backoff.Sleep(ctx, commitTimeout)
		}
		if ctx.Err() != nil {
			return nil, nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

func writeBackup(w io.Writer, head disk.BackupHead, content io.Reader) error {
	to, err := disk.NewBackupWriter(w, head)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, content); err != nil {
		return err
	}
	return to.Close()
}

// boundedReader ends with ctx and with the node.
type boundedReader struct {
	ctx, life context.Context //nolint:containedctx // it is one call's
	from      io.Reader
}

func (r *boundedReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.life.Err() != nil {
		return 0, dcs.ErrClosed
	}
	return r.from.Read(p)
}

// VerifyBackup reads a backup to its end and checks that it is as [Backend.Backup]
// wrote it and that this release can restore it. It needs as much memory as the
// state has.
func VerifyBackup(r io.Reader) (BackupInfo, error) {
	_, _, info, err := readBackup(r)
	if err != nil {
		return BackupInfo{}, named("VerifyBackup", err)
	}
	return info, nil
}

// readBackup returns a backup's head and its state.
func readBackup(r io.Reader) (head disk.BackupHead, f *state.FSM, info BackupInfo, err error) {
	head, content, err := disk.NewBackupReader(r)
	if err == nil {
		f = state.New()
		err = f.Restore(io.NopCloser(content))
	}
	if err == nil && (f.Applied() != head.Index || f.Incarnation() != head.Incarnation) {
		err = fmt.Errorf("the state is at entry %d of incarnation %x, and the head names entry %d of incarnation %v", f.Applied(), f.Incarnation(), head.Index, head.Incarnation)
	}
	if err != nil {
		return head, nil, info, invalid("the backup cannot be read: %w", err)
	}
	info = BackupInfo{Root: head.Root, Incarnation: head.Incarnation.String(), Revision: dcs.Revision(head.Index), Term: head.Term}
	info.Keys, info.Leases, info.LongestTTL = f.Summary()
	return head, f, info, nil
}
