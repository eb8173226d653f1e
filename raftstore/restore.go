package raftstore

import (
	"context"
	"io"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
)

// RestoreConfig describes the first node of a cluster that begins with a backup.
type RestoreConfig struct {
	// Node is the Config with which the node will run. Node.Dir must be absent or
	// empty. Node.Root may differ from that of the backup.
	Node Config
	// MinRevision is a lower bound for the revisions of the new cluster. It is needed
	// only if the nodes' clocks are wrong and the same backup, or an earlier one of the
	// same cluster, was restored before.
	MinRevision dcs.Revision
}

// RestoreReport describes a restored node.
type RestoreReport struct {
	Backup BackupInfo
	// Incarnation and Life are those of the node.
	Incarnation string
	Life        string
	// FirstRevision is the revision at which the new cluster begins. All its revisions
	// and fencing tokens are higher. All that the cluster of the backup handed out are
	// lower, including those after the backup.
	FirstRevision dcs.Revision
}

// Restore makes an empty directory that of the first node of a new cluster, whose state
// is that of a backup. When the node is started it leads, as the only voter, and the
// other nodes join it with empty directories. Restore reads the backup to its end and
// verifies it before it writes anything.
//
// The new cluster is another incarnation than that of the backup. Writes that the latter
// acknowledged after the backup are lost, and its nodes must be stopped. The remarks of
// [Recover] on nodes of the old incarnation hold here too.
//
// Every key keeps its revisions, and those of the new cluster begin above all that the
// old one can have handed out. Clients and leases of the backup end as after Recover. No
// session can renew them, and a lock that is taken in the backup is free TTL x 1.01 +
// 50 ms after the first leader began. A lock that was taken after the backup is free at
// once, although its holder may believe for its TTL that it holds it. Therefore do not
// start the node before the longest TTL in use has passed since the old cluster ended.
//
// An error or a crash leaves the directory restored, or empty except for files that the
// next Restore removes. Restore refuses a directory with data.
func Restore(ctx context.Context, c RestoreConfig, backup io.Reader) (RestoreReport, error) {
	return restoreOn(ctx, c, backup, defaultHooks())
}

func restoreOn(ctx context.Context, c RestoreConfig, backup io.Reader, h hooks) (report RestoreReport, err error) {
	const op = "Restore"
	node, err := c.Node.check()
	if err != nil {
		return report, named(op, err)
	}
	head, fsm, info, err := readBackup(&boundedReader{ctx: ctx, life: ctx, from: backup})
	if err != nil {
		return report, named(op, withContext(ctx, err))
	}
	if err := h.files.MakeDir(node.Dir); err != nil {
		return report, named(op, err)
	}
	d, err := lockDir(node, h, logging.NewHCLogger(logging.Quiet(node.Logger)))
	if err != nil {
		return report, named(op, err)
	}
	own, first, err := d.restore(ctx, node, ancestry{incarnation: head.Incarnation, former: head.Former, term: head.Term, state: fsm}, c.MinRevision)
	if err = closeDir(d, op, err); err != nil {
		return report, err
	}
	return RestoreReport{
		Backup: info, Incarnation: own.Incarnation.String(), Life: own.Life.String(), FirstRevision: dcs.Revision(first),
	}, nil
}

// restore begins a new incarnation in a directory that is empty.
func (d *dataDir) restore(ctx context.Context, c Config, a ancestry, least dcs.Revision) (disk.Identity, uint64, error) {
	if _, err := disk.EndReplace(d.files, d.path); err != nil {
		return disk.Identity{}, 0, err
	}
	used, err := disk.Contents(d.files, d.path)
	switch {
	case err != nil:
		return disk.Identity{}, 0, err
	case len(used) > 0:
		return disk.Identity{}, 0, invalid("Dir %s is not empty (it has %s): a backup must be restored to an empty directory", d.path, used[0])
	case ctx.Err() != nil:
		return disk.Identity{}, 0, ctx.Err()
	}
	return d.begin(c, a, least)
}
