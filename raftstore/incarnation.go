package raftstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// revisionStep is the least number of revisions that Recover and Restore leave
	// out. It is more than the cluster that they continue can have used since. One
	// entry in a microsecond, far more than a log can take, uses up the step in 13
	// days. A thousand entries in a second use it up in 35 years.
	revisionStep = 1 << 40
	// maxClock is the largest time in microseconds that counts. It is the end of the
	// integers that JSON keeps exact, and lies in the year 2255.
	maxClock = 1 << 53
	// maxRevision bounds RecoverConfig.MinRevision and the result, so that a
	// cluster never runs out of revisions.
	maxRevision = 1 << 62
)

// firstRevision returns the revision above which a new incarnation begins. It is at
// least revisionStep above last, the newest known revision of the incarnation that it
// continues, and at least least.
//
// It is also at least the time in microseconds. So an incarnation begins above all
// revisions that any cluster has used up to now, if its log took less than an entry
// in a microsecond since it began. Two incarnations that continue the same data, one
// after the other, do not use the same revisions. Only this last property depends on
// a correct clock.
func firstRevision(last uint64, least dcs.Revision, now time.Time) (uint64, error) {
	if least > maxRevision || last > maxRevision-revisionStep {
		return 0, fmt.Errorf("revisions would begin at %d, above %d", max(uint64(least), last), uint64(maxRevision))
	}
	first := max(last+revisionStep, uint64(least))
	if clock := now.UnixMicro(); clock > 0 && clock < maxClock {
		first = max(first, uint64(clock))
	}
	return first, nil
}

// ancestry describes the data that a new incarnation continues.
type ancestry struct {
	incarnation disk.Incarnation
	former      []disk.Incarnation
	life        disk.Life // whose data are replaced in the directory, or zero
	term        uint64    // the newest one that is known
	state       *state.FSM
	members     []raft.Server // of the incarnation that ends, if they are known
}

// newMembers returns the first configuration of a new incarnation. The node is its
// only voter. The others, those of the incarnation before or those of Peers, are in it
// with lives that no node has. When such a node is started, a new life takes the place
// of that one, and gets its vote if it stands for a voter.
func (a ancestry) newMembers(c Config, own disk.Life) raft.Configuration {
	addrs, suffrage := membersOf(a.members), map[string]raft.ServerSuffrage{}
	for id := range addrs {
		suffrage[id] = raft.Nonvoter
		if isVotersNode(configuration{servers: a.members}.lives(id)) {
			suffrage[id] = raft.Staging
		}
	}
	for _, p := range c.Peers {
		if len(a.members) == 0 {
			suffrage[p.ID] = raft.Staging
		}
		if _, known := suffrage[p.ID]; known {
			addrs[p.ID] = p.Addr // the operator has just given it
		}
	}
	list := []raft.Server{{
		ID: transport.ServerID(c.ID, own), Address: serverAddr(cmp.Or(c.peerAddr(c.ID), c.Advertise), own),
	}}
	for _, id := range sortedKeys(addrs) {
		if life := disk.NewLife(); id != c.ID {
			list = append(list, raft.Server{Suffrage: suffrage[id], ID: transport.ServerID(id, life), Address: serverAddr(addrs[id], life)})
		}
	}
	return raft.Configuration{Servers: list}
}

// begin makes the directory that of the only voter of a new incarnation, which
// continues a. It returns the identity and the revision at which it begins.
func (d *dataDir) begin(c Config, a ancestry, least dcs.Revision) (own disk.Identity, first uint64, err error) {
	now := time.Now() //nolint:forbidigo // it only raises a number; see firstRevision
	if first, err = firstRevision(a.state.Applied(), least, now); err != nil {
		return own, 0, invalid("%w", err)
	}
	own = disk.Identity{
		Owner: d.owner, Incarnation: disk.NewIncarnation(), Life: disk.NewLife(),
		Former: append(slices.Clone(a.former), a.incarnation),
	}
	term := a.term + 1
	snapshot, err := a.state.Successor(own.Incarnation, first, term)
	if err != nil {
		return own, 0, err
	}
	err = disk.Replace(d.files, d.path, a.life, own, disk.Beginning{
		Index: first, Term: term, Configuration: a.newMembers(c, own.Life),
		Persist: snapshot.Persist, SegmentBytes: d.segmentBytes,
	})
	if err != nil {
		err = fmt.Errorf("%s was not completely written: repeat the operation, which completes it or reports that it is done: %w", d.path, err)
	}
	return own, first, err
}

// named returns err as the error of the operation op of this package.
func named(op string, err error) error {
	var known *dcs.Error
	if errors.As(err, &known) {
		renamed := *known
		renamed.Op = op
		return &renamed
	}
	return &dcs.Error{Backend: backendName, Op: op, Kind: dcs.ErrUnavailable, Err: err}
}

// closeDir unlocks a directory after an operation that ended with err.
func closeDir(d *dataDir, op string, err error) error {
	if err := errors.Join(err, d.close()); err != nil {
		return named(op, err)
	}
	return nil
}
