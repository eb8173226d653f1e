package elector

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// DefaultMaxLag is the lag of a member that may lead where the cluster's
// configuration does not set maximum_lag_on_failover: that of Patroni, in the unit
// of the positions.
const DefaultMaxLag = 1 << 20

// Situation is the knowledge by which a [Policy] decides.
type Situation struct {
	View *cluster.View
	// Self is this member's record as it would be published now.
	Self cluster.Member
	// Asked reports whether the members were asked. If so, Live has the answers by
	// member name, and Findings the faults of their records.
	Asked    bool
	Live     map[string]cluster.Identity
	Findings []cluster.Finding
}

// Policy returns nil if this member may take the lock, or the reason against it. It
// is asked when the lock is free and may take as long as a call to the store. It
// must not change s.
type Policy func(s Situation) error

// DefaultPolicy lets a member lead (E14) that
//
//   - is not tagged nofailover,
//   - has a record without a disqualifying Finding,
//   - is at most the configured maximum lag behind the position in the cluster's
//     status, which is that of the last leader,
//   - and has no healthy member ahead of it: one that has answered, or was not
//     asked, is not in the state failed, and may lead itself. In a switchover the
//     leader that hands over is not counted.
func DefaultPolicy(s Situation) error {
	if err := s.fit(s.Self); err != nil {
		return err
	}
	last := s.View.Status.Position
	if lag := last - s.Self.Position; lag > s.maxLag() {
		return fmt.Errorf("position %d is %d behind the last known position %d of the leader, at most %d is allowed", s.Self.Position, lag, last, s.maxLag())
	}
	for _, stored := range s.View.Members {
		if stored.Name == s.Self.Name || s.handsOver(stored.Name) {
			continue
		}
		m, err := s.member(stored.Name)
		if err != nil || m.State == cluster.StateFailed || m.NoFailover() {
			continue // E9: it blocks nobody
		}
		if m.Position > s.Self.Position {
			return fmt.Errorf("member %q is ahead: its position is %d (stored %d), that of this member %d", m.Name, m.Position, stored.Position, s.Self.Position)
		}
	}
	return nil
}

func (s Situation) maxLag() int64 {
	if s.View.Config.MaxLag > 0 {
		return s.View.Config.MaxLag
	}
	return DefaultMaxLag
}

// handsOver reports whether the member called name has given the lock up in favour
// of another one.
func (s Situation) handsOver(name string) bool {
	f := s.View.Failover
	return f != nil && f.Token != 0 && f.Leader == name
}

// member returns a member with its live state and position, or the reason why its
// record cannot be relied on.
func (s Situation) member(name string) (cluster.Member, error) {
	m, ok := s.View.Member(name)
	if !ok {
		return m, fmt.Errorf("member %q is unknown: it has no record in the cluster", name)
	}
	for _, f := range s.Findings {
		if f.Member == name && f.Disqualifies() {
			return m, errors.New(f.String())
		}
	}
	if id, ok := s.Live[name]; ok {
		m.Position, m.Timeline = id.Position, id.Timeline
		if id.State != "" {
			m.State = id.State
		}
	}
	return m, nil
}

// fit returns the reason why a member must not lead, positions apart.
func (s Situation) fit(m cluster.Member) error {
	for _, f := range s.Findings {
		if f.Member == m.Name && f.Disqualifies() {
			return errors.New(f.String())
		}
	}
	if m.NoFailover() {
		return fmt.Errorf("member %q is tagged nofailover", m.Name)
	}
	return nil
}

// candidate returns nil if the member called name may take over from this one (E15).
func (s Situation) candidate(name string) error {
	if name == s.Self.Name {
		return fmt.Errorf("member %q leads already", name)
	}
	m, err := s.member(name)
	if err == nil {
		err = s.fit(m)
	}
	if list := s.View.Failsafe; err == nil && !list.Empty() && !list.Contains(name) { // F4
		err = fmt.Errorf("member %q is not in the failsafe list and may not take the lock", name)
	}
	if err != nil {
		return err
	}
	if m.State != cluster.StateRunning {
		return fmt.Errorf("member %q is in the state %q, not %q", name, m.State, cluster.StateRunning)
	}
	if lag := s.Self.Position - m.Position; lag > s.maxLag() {
		stored, _ := s.View.Member(name)
		return fmt.Errorf("member %q is %d behind the leader: its position is %d (stored %d), that of the leader %d, at most %d is allowed",
			name, lag, m.Position, stored.Position, s.Self.Position, s.maxLag())
	}
	return nil
}

// best returns the member that is the best one to take over, or an error with the
// reason against each.
func (s Situation) best() (string, error) {
	var found cluster.Member
	var faults []string
	for _, stored := range s.View.Members {
		if stored.Name == s.Self.Name {
			continue
		}
		if err := s.candidate(stored.Name); err != nil {
			faults = append(faults, err.Error())
			continue
		}
		if m, err := s.member(stored.Name); err == nil && (found.Name == "" || m.Position > found.Position) {
			found = m
		}
	}
	if found.Name == "" {
		return "", fmt.Errorf("no member can take over: %s", strings.Join(faults, "; "))
	}
	return found.Name, nil
}

// examine asks the members of v, if there is an Asker, within the time for that.
func (e *Elector) examine(ctx context.Context, v *cluster.View, self cluster.Member) Situation {
	s := Situation{View: v, Self: self}
	if e.c.Asker == nil {
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, e.c.Timing.WithDefaults().askTime())
	defer cancel()
	r := &recorder{asker: e.c.Asker, answers: map[string]cluster.Identity{}}
	s.Asked, s.Live = true, map[string]cluster.Identity{}
	s.Findings = cluster.Verify(ctx, v, e.Identity(), r)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range v.Members {
		if id, ok := r.answers[m.APIURL]; ok && id.Name == m.Name {
			s.Live[m.Name] = id
		}
	}
	return s
}

// recorder is an Asker that keeps the answers.
type recorder struct {
	asker   cluster.Asker
	mu      sync.Mutex
	answers map[string]cluster.Identity
}

// Ask implements [cluster.Asker].
func (r *recorder) Ask(ctx context.Context, apiURL string) (cluster.Identity, error) {
	id, err := r.asker.Ask(ctx, apiURL)
	if err == nil {
		r.mu.Lock()
		r.answers[apiURL] = id
		r.mu.Unlock()
	}
	return id, err
}
