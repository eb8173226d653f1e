package raftstore

import (
	"errors"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// errDirInUse reports that another process has the data directory.
var errDirInUse = disk.ErrInUse

// owner returns the owner that the data directory of this node names.
func (c Config) owner() disk.Owner {
	return disk.Owner{Node: c.ID, Cluster: transport.NewClusterID(c.Root).String(), Root: c.Root, Members: c.memberIDs()}
}

// dataDir is the locked data directory of this node.
type dataDir struct {
	path   string
	files  disk.FS
	log    *logging.HCLogger
	owner  disk.Owner
	unlock func() error
	state  disk.State // as it was when it was opened
	// servers is the configuration that the log and the snapshots had then.
	servers []raft.Server

	segmentBytes int64 // of hooks
}

func (d *dataDir) logDir() string   { return disk.LogDir(d.path) }
func (d *dataDir) snapsDir() string { return disk.SnapshotDir(d.path) }

// asidePath returns the directory to which setAside moves the data.
func (d *dataDir) asidePath() string { return disk.LostDir(d.path, d.state.Life()) }

// close unlocks the directory for another process.
func (d *dataDir) close() error { return d.unlock() }

// openDir locks the data directory and inspects it. A new directory becomes this
// node's. If it fails, it fails at once, and it never changes the data of another
// node. Data that the node must not vote with are an error, unless Config.Rejoin
// allows it to continue without them.
func openDir(c Config, h hooks, log *logging.HCLogger) (*dataDir, error) {
	if err := h.files.MakeDir(c.Dir); err != nil {
		return nil, openError(dcs.ErrUnavailable, "Dir %s cannot be made: name a directory that this user can write to: %w", c.Dir, err)
	}
	d, err := lockDir(c, h, log)
	if err != nil {
		return nil, err
	}
	if err := d.inspect(c.Rejoin); err != nil {
		return nil, errors.Join(err, d.unlock())
	}
	return d, nil
}

// lockDir locks a data directory. It does not inspect the directory.
func lockDir(c Config, h hooks, log *logging.HCLogger) (*dataDir, error) {
	unlock, err := h.files.Lock(disk.LockFile(c.Dir))
	if err != nil {
		if errors.Is(err, errDirInUse) {
			return nil, openError(dcs.ErrUnavailable, "Dir %s is in use by another process: end that process, or give this node a directory of its own: %w", c.Dir, err)
		}
		return nil, openError(dcs.ErrUnavailable, "Dir %s cannot be locked: it must be writable by this user: %w", c.Dir, err)
	}
	return &dataDir{path: c.Dir, files: h.files, log: log, owner: c.owner(), unlock: unlock, segmentBytes: h.segmentBytes}, nil
}

func (d *dataDir) inspect(rejoin bool) error {
	state, err := disk.Open(d.files, d.path, d.owner, d.scan)
	d.state = state
	var damaged *disk.RejoinError
	if err == nil || errors.As(err, &damaged) && rejoin {
		return nil
	}
	return d.refusal(err)
}

// refusal returns the error of a start whose inspection ended with err.
func (d *dataDir) refusal(err error) error {
	var (
		damaged  *disk.RejoinError
		owner    *disk.OwnerError
		format   *disk.FormatError
		stranger *disk.StrangerError
		known    *dcs.Error
	)
	switch {
	case errors.As(err, &damaged):
		return openError(dcs.ErrUnavailable, "%w", damaged)
	case errors.As(err, &owner), errors.As(err, &format), errors.As(err, &stranger):
		return invalid("%w", err)
	case errors.As(err, &known):
		return known
	}
	return d.explain(err)
}

// writeIdentity durably replaces the identity.
func (d *dataDir) writeIdentity(i disk.Identity) error {
	return disk.WriteIdentity(d.files, d.path, i)
}

// setAside moves the data aside and begins another life in the directory.
func (d *dataDir) setAside(i disk.Identity) error {
	if err := disk.SetAside(d.files, d.path, d.state.Life()); err != nil {
		return err
	}
	if err := disk.Make(d.files, d.path, i); err != nil {
		return err
	}
	d.state = disk.State{Condition: disk.Joiner, Identity: i}
	return nil
}
