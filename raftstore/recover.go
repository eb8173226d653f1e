package raftstore

import (
	"context"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
)

// RecoverConfig describes the recovery from a lost quorum on the survivor, a node that
// still has its data.
type RecoverConfig struct {
	// Node is the Config with which the survivor runs.
	Node Config
	// Incarnation and Life confirm that the caller means to end this incarnation of
	// the cluster and to begin the next one with the data in Node.Dir. They must be
	// those of the data, as in the report of [PlanRecovery] and in the Status of the
	// node.
	Incarnation string
	Life        string
	// AcceptShort allows a survivor that lacks entries that it had stored once.
	// RecoverReport.Missing is their number.
	AcceptShort bool
	// MinRevision is a lower bound for the revisions of the new incarnation. It is
	// needed only if the nodes' clocks are wrong and the same data were recovered or
	// restored before.
	MinRevision dcs.Revision
}

// A FormerServer is a node of an incarnation that has ended.
type FormerServer struct {
	ID, Life, Addr string
	Voter          bool
}

// RecoverReport describes the data of a survivor and the writes that a recovery on it
// may lose.
type RecoverReport struct {
	// Incarnation and Life are those of the survivor's data before the recovery.
	Incarnation string
	Life        string
	// LastIndex and LastTerm are those of the newest entry of the survivor. Of several
	// survivors the one with the highest term loses least, and of those with the same
	// term the one with the highest index.
	LastIndex uint64
	LastTerm  uint64
	// SnapshotIndex is the newest entry that the survivor is known to have applied, or
	// 0. Entries behind it may never have been committed, and count as committed after
	// the recovery.
	SnapshotIndex uint64
	// Missing is the number of entries that the survivor had stored durably and now
	// lacks.
	Missing uint64
	// SeenTerm is the newest term of which the survivor knows.
	SeenTerm uint64
	// Keys and Leases count those in the survivor's state. LongestTTL is the longest
	// one of its leases.
	Keys       int
	Leases     int
	LongestTTL time.Duration
	// Servers are the nodes of the incarnation that ends. They must not run again with
	// their data; see Recover.
	Servers []FormerServer
	// MayBeLost describes the writes that the recovery may lose.
	MayBeLost []string

	// The fields below are set by Recover, and empty in the report of PlanRecovery.

	// NewIncarnation and NewLife are those of the survivor from now on.
	NewIncarnation string
	NewLife        string
	// FirstRevision is the revision at which the new incarnation begins. All its
	// revisions and fencing tokens are higher, and those of earlier incarnations are
	// lower.
	FirstRevision dcs.Revision
	// Aside is the directory that has the survivor's former data.
	Aside string
}

// PlanRecovery describes the data that [Recover] would find in the directory of a
// stopped node, and the writes that Recover may lose. It changes no data.
func PlanRecovery(ctx context.Context, node Config) (RecoverReport, error) {
	return planRecovery(ctx, node, defaultHooks())
}

// Recover makes a cluster that has permanently lost its quorum work again, on one
// stopped node that still has its data. It ends the incarnation of the cluster and
// begins another one, whose only voter is this node. When the node is started again it
// leads, and others join it if they have an empty directory, or data of the old
// incarnation and Config.Rejoin.
//
// The other nodes of the old incarnation must not run with their data any more.
// Nodes of the two refuse each other, but a majority of the old voters that run
// can elect a leader, and there are two clusters then. If the survivor reaches
// such a leader when it is started for the first time, it does not start. A node with
// data of the old incarnation that reaches a node of the new one does not vote.
//
// Writes that the survivor has not stored are lost; see RecoverReport. Its last entries
// count as committed, even if they were not. Every key keeps its revisions. Clients and
// leases of the old incarnation end. No session can renew them, and a lock stays taken
// until its lease ends, TTL x 1.01 + 50 ms after the first leader began. The holder of a
// lost lease may believe for the lease's TTL that it holds it, so the node should not be
// started before RecoverReport.LongestTTL has passed since the quorum was lost.
// Revisions and fencing tokens begin above all earlier ones.
//
// An error or a crash leaves the directory as it was or with the new data. Recover may
// then be called again. It completes, or it refuses because the directory was already
// recovered. A confirmation is never valid twice.
func Recover(ctx context.Context, c RecoverConfig) (RecoverReport, error) {
	return recoverOn(ctx, c, defaultHooks())
}

func planRecovery(ctx context.Context, c Config, h hooks) (report RecoverReport, err error) {
	const op = "PlanRecovery"
	d, c, err := openSurvivor(ctx, c, h)
	if err != nil {
		return report, named(op, err)
	}
	s, err := d.survey()
	if err == nil {
		report = s.report(c)
	}
	return report, closeDir(d, op, err)
}

func recoverOn(ctx context.Context, c RecoverConfig, h hooks) (report RecoverReport, err error) {
	const op = "Recover"
	d, node, err := openSurvivor(ctx, c.Node, h)
	if err != nil {
		return report, named(op, err)
	}
	report, err = c.recover(ctx, d, node)
	return report, closeDir(d, op, err)
}

// openSurvivor locks the directory of a stopped node. It completes a recovery that was
// interrupted when it could not be undone any more.
func openSurvivor(ctx context.Context, c Config, h hooks) (*dataDir, Config, error) {
	c, err := c.check()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, c, err
	}
	if _, err := h.files.List(c.Dir); err != nil {
		return nil, c, invalid("Dir %s cannot be read: name the directory of the survivor: %w", c.Dir, err)
	}
	d, err := lockDir(c, h, logging.NewHCLogger(logging.Quiet(c.Logger)))
	if err != nil {
		return nil, c, err
	}
	if _, err := disk.EndReplace(d.files, d.path); err != nil {
		return nil, c, closeDir(d, "Recover", err)
	}
	return d, c, nil
}

func (c RecoverConfig) recover(ctx context.Context, d *dataDir, node Config) (report RecoverReport, err error) {
	s, err := d.survey()
	if err != nil {
		return report, err
	}
	if err := c.confirm(s.own); err != nil {
		return report, err
	}
	report = s.report(node)
	if report.Missing > 0 && !c.AcceptShort {
		return report, invalid("the survivor lacks %d entries that it had stored once: recover another node that lacks none, or set AcceptShort", report.Missing)
	}
	if err := ctx.Err(); err != nil {
		return report, err
	}
	own, first, err := d.begin(node, s.ancestry(), c.MinRevision)
	if err != nil {
		return report, err
	}
	report.NewIncarnation, report.NewLife = own.Incarnation.String(), own.Life.String()
	report.FirstRevision, report.Aside = dcs.Revision(first), disk.LostDir(d.path, s.own.Life)
	return report, nil
}

// confirm returns an error unless the caller has confirmed exactly these data.
func (c RecoverConfig) confirm(own disk.Identity) error {
	switch former := slices.IndexFunc(own.Former, func(i disk.Incarnation) bool { return i.String() == c.Incarnation }); {
	case former >= 0:
		return invalid("incarnation %s has ended already: the directory was recovered or restored from it and is of incarnation %v with life %v now; start the node", c.Incarnation, own.Incarnation, own.Life)
	case c.Incarnation == "" || c.Life == "":
		return invalid("a recovery must be confirmed: read the report of PlanRecovery, and set its Incarnation and Life")
	case c.Incarnation != own.Incarnation.String() || c.Life != own.Life.String():
		return invalid("the confirmation is for incarnation %s and life %s, and the directory is of incarnation %v with life %v: name the survivor's directory, or read the report of PlanRecovery for this one", c.Incarnation, c.Life, own.Incarnation, own.Life)
	}
	return nil
}
