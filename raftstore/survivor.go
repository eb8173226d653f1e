package raftstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// survivor is the content of the directory of a stopped node.
type survivor struct {
	own      disk.Identity
	state    *state.FSM // with every entry applied
	servers  []raft.Server
	last     disk.LogEnd // the newest entry
	snapshot uint64
	mark     disk.LogEnd
	seenTerm uint64
}

// survey reads the data of a stopped node, and applies all entries.
func (d *dataDir) survey() (*survivor, error) {
	found, err := disk.Inspect(d.files, d.path, d.owner, d.scan)
	if err != nil {
		var damage *disk.RejoinError
		if errors.As(err, &damage) {
			return nil, invalid("the data in %s cannot be recovered: %w", d.path, damage.Err)
		}
		return nil, d.refusal(err)
	}
	s := &survivor{own: found.Identity, state: state.New(), mark: found.Mark.Log}
	mark := found.Mark.Log
	switch found.Condition {
	case disk.Complete:
	case disk.Short:
		var short *disk.ShortError
		if !errors.As(found.Reason, &short) {
			return nil, invalid("the data in %s cannot be recovered: %w", d.path, found.Reason)
		}
		mark = disk.LogEnd{} // the present entries may still be used
	case disk.Fresh, disk.Founder, disk.Joiner, disk.Damaged:
		return nil, invalid("Dir %s has nothing to recover: the node has stored no entry (%v)", d.path, found.Condition)
	}
	if err := s.read(d, mark); err != nil {
		return nil, err
	}
	s.seenTerm = max(found.Vote.Term, s.last.Term, s.mark.Term)
	return s, nil
}

// read applies the newest snapshot and the entries behind it.
func (s *survivor) read(d *dataDir, mark disk.LogEnd) error {
	snaps, err := disk.OpenSnapshots(d.files, d.snapsDir(), s.own.Incarnation)
	if err != nil {
		return err
	}
	if err := s.restore(snaps); err != nil {
		return err
	}
	_, err = disk.ReadLog(disk.LogOptions{
		Files: d.files, Dir: d.logDir(), Life: s.own.Life, Mark: mark,
		Check: func(e *raft.Log) error { return checkStored(e, s.own.Incarnation) },
	}, s.last.Index, s.last.Term, s.apply)
	if err == nil && s.state.Incarnation() != s.own.Incarnation {
		err = fmt.Errorf("the entries are of incarnation %x, and the directory is of incarnation %v", s.state.Incarnation(), s.own.Incarnation)
	}
	if err != nil {
		return invalid("the data in %s cannot be recovered: %w", d.path, err)
	}
	return nil
}

func (s *survivor) restore(snaps *disk.Snapshots) error {
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return err
	}
	_, content, err := snaps.Open(list[0].ID)
	if err != nil {
		return err
	}
	if err := s.state.Restore(content); err != nil {
		return err
	}
	s.last.Index, s.last.Term = list[0].Index, list[0].Term
	s.snapshot, s.servers = list[0].Index, list[0].Configuration.Servers
	return nil
}

func (s *survivor) apply(e *raft.Log) error {
	if e.Type == raft.LogConfiguration {
		s.servers = raft.DecodeConfiguration(e.Data).Servers // checkStored has read it
	}
	s.state.Apply(e)
	s.last.Index, s.last.Term = e.Index, e.Term
	return s.state.Failed()
}

func (s *survivor) ancestry() ancestry {
	return ancestry{incarnation: s.own.Incarnation, former: s.own.Former, life: s.own.Life, term: s.seenTerm, state: s.state, members: s.servers}
}

// missing returns the number of entries that the mark records and the log lacks.
func (s *survivor) missing() uint64 {
	if s.mark.Term < s.last.Term || s.mark.Index <= s.last.Index {
		return 0
	}
	return s.mark.Index - s.last.Index
}

func (s *survivor) report(c Config) RecoverReport {
	r := RecoverReport{
		Incarnation: s.own.Incarnation.String(), Life: s.own.Life.String(),
		LastIndex: s.last.Index, LastTerm: s.last.Term, SnapshotIndex: s.snapshot,
		Missing: s.missing(), SeenTerm: s.seenTerm,
	}
	r.Keys, r.Leases, r.LongestTTL = s.state.Summary()
	for _, server := range s.servers {
		id, life := transport.SplitServer(server.ID)
		r.Servers = append(r.Servers, FormerServer{
			ID: id, Life: life.String(), Addr: transport.PlainAddr(string(server.Address)), Voter: server.Suffrage == raft.Voter,
		})
	}
	r.MayBeLost = r.losses(c.ID)
	return r
}

// losses describes the writes that the survivor may lack.
func (r *RecoverReport) losses(own string) []string {
	var list, others []string
	hasVote := false
	for _, s := range r.Servers {
		if isOwn := s.ID == own && s.Life == r.Life; isOwn {
			hasVote = s.Voter
		} else if s.Voter {
			others = append(others, s.ID)
		}
	}
	slices.Sort(others)
	if len(others) > 0 {
		list = append(list, fmt.Sprintf("commits behind entry %d of term %d, which the voters %s may have and this node has not", r.LastIndex, r.LastTerm, strings.Join(others, ", ")))
	}
	if !hasVote {
		list = append(list, "further commits: this node had no vote, so that no commit waited for it")
	}
	if r.Missing > 0 {
		list = append(list, fmt.Sprintf("%d entries, up to entry %d, which this node had stored and lacks now", r.Missing, r.LastIndex+r.Missing))
	}
	if r.SeenTerm > r.LastTerm {
		list = append(list, fmt.Sprintf("commits of the leaders of the terms %d to %d: this node knows of these terms and has no entry of them", r.LastTerm+1, r.SeenTerm))
	}
	if r.LastIndex > r.SnapshotIndex {
		list = append(list, fmt.Sprintf("the refusal of writes that were never committed: the entries from %d to %d may be such, and count as committed from now on", r.SnapshotIndex+1, r.LastIndex))
	}
	return list
}
