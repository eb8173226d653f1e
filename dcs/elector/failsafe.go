package elector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// FailsafeRequest asks a member to accept that the leader goes on although it may not
// renew its lock.
type FailsafeRequest struct {
	Scope string `json:"scope"`
	// Name, Instance, Token and TTL are those of the leader.
	Name     string        `json:"name"`
	Instance string        `json:"instance"`
	Token    dcs.Revision  `json:"token"`
	TTL      time.Duration `json:"ttl_ns"`
	// Member is the member that is asked.
	Member string `json:"member"`
}

// FailsafeAnswer is the answer of a member.
type FailsafeAnswer struct {
	// Scope, Name and Instance are those of the process that answers.
	Scope    string `json:"scope"`
	Name     string `json:"name"`
	Instance string `json:"instance"`
	Accepted bool   `json:"accepted"`
	// Reason is why the leader was not accepted.
	Reason string `json:"reason,omitempty"`
}

// FailsafeTransport carries the questions of a leader in failsafe mode. Package
// electorhttp has one.
type FailsafeTransport interface {
	// AskFailsafe sends r to the member at apiURL, which must answer with
	// [Elector.AcceptFailsafe]. It must return by the context's deadline.
	AskFailsafe(ctx context.Context, apiURL string, r FailsafeRequest) (FailsafeAnswer, error)
}

// target is a member at an address of a failsafe list.
type target struct{ name, url string }

// failsafe is the state of failsafe mode in the loop.
type failsafe struct {
	possible  map[target]bool // F1: the members of every list that may be stored
	list      cluster.Failsafe
	token     dcs.Revision     // of the leadership whose list was confirmed; 0 if none
	listAt    dcs.Instant      // when the next write of the list is due
	round     int              // rounds from before another number are dropped
	asked     dcs.Instant      // F2: when the last successful round was first sent
	askAt     dcs.Instant      // no round before that
	answers   []FailsafeMember // of the last round, which began at answersAt
	answersAt dcs.Instant
	seenName  string // the member with the highest token that is known
	seen      dcs.Revision
	by        string // F3: the leader that was accepted
	until     dcs.Instant
	url       string      // F4: the address of this member in the list
	reached   dcs.Instant // since when this process answers there; zero if it does not
	reachErr  error
	reachAt   dcs.Instant
	unclear   *dcs.Session // an acquisition of it has an outcome that is not known
}

// keepFailsafe keeps the list of a leader and asks the members when that is due.
func (e *Elector) keepFailsafe() {
	l := &e.loop
	if e.c.Failsafe == nil || l.state != Leading || l.view == nil {
		return
	}
	if l.hold != nil && l.hold.Valid() && !l.busy[taskFailsafe] && e.due(l.fs.listAt) {
		e.keepList()
	}
	e.keepAsking()
}

// wantedList returns the list that is to be stored: the members with an address, or
// nobody where the mode is off.
func (e *Elector) wantedList() cluster.Failsafe {
	l := &e.loop
	f := cluster.Failsafe{Members: map[string]string{}, TTL: l.timing.TTL}
	if !l.view.Config.FailsafeMode {
		return cluster.Failsafe{}
	}
	for _, m := range l.view.Members {
		if m.APIURL != "" {
			f.Members[m.Name] = m.APIURL
		}
	}
	f.Members[e.c.Name] = e.c.Member.APIURL
	return f
}

// keepList writes the list under the guard of the lock: once for each lock, also
// unchanged, and when the members change (F1).
func (e *Elector) keepList() {
	l := &e.loop
	want, stored := e.wantedList(), l.view.Failsafe
	same := maps.Equal(want.Members, stored.Members) && want.TTL == stored.TTL
	if len(want.Members) == 0 {
		if l.fs.token = 0; stored.Empty() {
			return
		}
		e.dropAgreement() // nobody is bound once the list is empty
	} else if same && l.fs.token == l.hold.Token() {
		return
	}
	for name, url := range want.Members {
		if l.fs.possible == nil {
			l.fs.possible = map[target]bool{}
		}
		if t := (target{name, url}); !l.fs.possible[t] {
			e.dropAgreement() // F1: before a list with a new member is sent
			l.fs.possible[t] = true
		}
	}
	l.fs.listAt = dcs.Now().Add(e.retryTime())
	v, lead := l.view, l.lead
	token := lead.Token()
	e.begin(taskFailsafe, func(ctx context.Context) func() {
		txn, err := v.LeaderTxn(lead.Guard(), want)
		if err == nil {
			txn.If = append(txn.If, v.Unchanged(cluster.ConfigKey)...)
			_, err = e.c.Store.Commit(ctx, txn)
		}
		return func() { e.listWritten(lead, token, want, err) }
	})
}

// listWritten takes the outcome of a write of the list. One that is unclear leaves the
// members of both lists to be asked.
func (e *Elector) listWritten(lead *Leadership, token dcs.Revision, want cluster.Failsafe, err error) {
	l := &e.loop
	if err != nil {
		if !errors.Is(err, dcs.ErrConflict) {
			e.log.Warn("failsafe list cannot be written", "error", err)
		}
		return
	}
	if lead != l.lead || len(want.Members) == 0 {
		return
	}
	l.fs.list, l.fs.token, l.fs.possible = want, token, map[target]bool{}
	for name, url := range want.Members {
		l.fs.possible[target{name, url}] = true
	}
}

// dropAgreement ends the time for which the members have accepted this leader, and
// every round that is under way.
func (e *Elector) dropAgreement() {
	l := &e.loop
	l.fs.round++
	if l.lead != nil && l.lead.agree(dcs.Instant{}) {
		e.timer.Load().poke()
	}
}

// noteFailsafe takes the failsafe list and the leader of a new View.
func (e *Elector) noteFailsafe() {
	l := &e.loop
	if v := l.view.Leader; v != nil {
		e.forgetToken(v.Token)
		if e.noteToken(v.Name, v.Token); v.Name != e.c.Name {
			l.fs.unclear = nil // another acquisition has come before it
		}
	}
	if l.lead == nil || l.fs.token == 0 {
		return
	}
	if v := l.view; !v.Failsafe.Contains(e.c.Name) || v.Leader != nil && v.Leader.Name != e.c.Name {
		l.fs.token = 0 // an operator has emptied the list, or another member has the lock
		e.dropAgreement()
	}
}

// forgetToken forgets the highest token that is known if the lock has a smaller one at a
// revision that is not smaller. In one life of the store that cannot be, so the store was
// rebuilt, and the token belongs to no leader of the present one.
func (e *Elector) forgetToken(token dcs.Revision) {
	l := &e.loop
	if fs := &l.fs; token < fs.seen && fs.seen <= l.view.Revision {
		e.log.Warn("the store was rebuilt: the lock has a smaller token than before", "token", token, "before", fs.seen)
		fs.seenName, fs.seen = "", 0
	}
}

// noteToken notes the highest token that is known.
func (e *Elector) noteToken(name string, token dcs.Revision) {
	if fs := &e.loop.fs; token > fs.seen {
		fs.seenName, fs.seen = name, token
	}
}

// keepAsking begins a round when it is due (F2).
func (e *Elector) keepAsking() {
	l := &e.loop
	// F1: only after the list of this lock was confirmed.
	if l.fs.token == 0 || l.fs.token != l.lead.Token() || !l.view.Config.FailsafeMode || l.shutdown || l.busy[taskAsk] {
		return
	}
	t := l.lead.term()
	agreed := l.lead.agreed()
	var at dcs.Instant
	switch {
	case t.lost != nil || t.kept:
		return
	case !agreed.IsZero() && !agreed.Before(t.deadline):
		at = l.fs.asked.Add(l.timing.RenewEvery(l.timing.TTL))
	case l.hold.Err() != nil:
		return // F2: never once the lock is over
	default:
		at = t.deadline.Add(-l.timing.StopTimeout - l.timing.askTimeout())
	}
	if at.Before(l.fs.askAt) {
		at = l.fs.askAt
	}
	if !e.due(at) {
		return
	}
	e.startRound()
}

// startRound asks every member of every list that may be stored. The leadership lasts
// from the first sending if all of them accept.
func (e *Elector) startRound() {
	l := &e.loop
	first, round, lead, limit := dcs.Now(), l.fs.round, l.lead, l.timing.askTimeout()
	r := FailsafeRequest{Scope: e.c.Scope, Name: e.c.Name, Instance: e.instance, Token: lead.Token(), TTL: l.timing.TTL}
	targets := slices.SortedFunc(maps.Keys(l.fs.possible), func(a, b target) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.url, b.url))
	})
	until := first.Add(l.timing.TTL - dcs.Margin(l.timing.TTL))
	again := first.Add(limit / 4)
	l.fs.askAt = again
	e.begin(taskAsk, func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		answers := e.askAll(ctx, targets, r, again)
		return func() {
			l.fs.answers, l.fs.answersAt = answers, first
			switch err := refusals(answers); {
			case err != nil:
				e.log.Warn("the members do not all accept this leader", "error", brief(err))
			case round == l.fs.round && lead == l.lead && lead.agree(until):
				l.fs.asked = first
				e.timer.Load().poke()
				e.log.Info("all members accept this leader", "members", len(targets)-1)
			}
		}
	})
}

// askAll returns the answers of the targets. It returns with ctx, because the transport
// is bounded, and with again if a target has not accepted: the next round begins then.
func (e *Elector) askAll(ctx context.Context, targets []target, r FailsafeRequest, again dcs.Instant) []FailsafeMember {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var failed sync.Once
	answers := make([]FailsafeMember, len(targets))
	for i, t := range targets {
		wg.Go(func() {
			err := brief(e.askOne(ctx, t, r))
			if answers[i] = (FailsafeMember{t.name, err}); err != nil {
				failed.Do(func() { time.AfterFunc(max(-again.Elapsed(), 0), cancel) })
			}
		})
	}
	wg.Wait()
	return answers
}

// refusals returns nil if every member has accepted the leader (F2).
func refusals(answers []FailsafeMember) error {
	var faults []string
	for _, a := range answers {
		if a.Err != nil {
			faults = append(faults, fmt.Sprintf("member %q: %v", a.Name, a.Err))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

// askOne returns nil if the target accepts. This process must reach itself at its own
// address: another process of its name would not be blocked, and could take the lock.
func (e *Elector) askOne(ctx context.Context, t target, r FailsafeRequest) error {
	if t.name == e.c.Name {
		return e.reachesItself(ctx, t.url)
	}
	r.Member = t.name
	a, err := e.c.Failsafe.AskFailsafe(ctx, t.url, r)
	switch {
	case err != nil:
		return err
	case a.Scope != r.Scope || a.Name != t.name || a.Instance == "" || a.Instance == r.Instance:
		return fmt.Errorf("member %q, instance %q, of cluster %q answered", a.Name, a.Instance, a.Scope)
	case !a.Accepted:
		return errors.New("refused: " + a.Reason)
	}
	return nil
}
