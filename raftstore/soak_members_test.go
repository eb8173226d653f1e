package raftstore

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

var memberRounds = flag.Int("soak.members", 0, "rounds of TestSoakMembers; 0 is a few")

// TestSoakMembers changes the members at random while others write and take a lock
// in turns. In each round a node is killed or frozen at a random step of the change. It
// is the leader, a node that may lead next, the one that the change concerns, or any.
// Each change must be made in the end, each acknowledged write must stay, tokens must
// rise, and no two holders may be valid at once.
func TestSoakMembers(t *testing.T) {
	parallel(t)
	seed, rounds := *soakSeed, *memberRounds
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	if rounds == 0 {
		rounds = 4
	}
	if slowProfile() {
		rounds = max(rounds, 40)
	}
	t.Logf("-soak.seed=%d -soak.members=%d", seed, rounds)
	s := newMemberSoak(t, seed)
	count := map[string]int{}
	for round := range rounds {
		name := s.change()
		count[name]++
		if t.Failed() {
			t.Fatalf("round %d (%s), -soak.seed=%d", round, name, seed)
		}
	}
	s.finish()
	t.Logf("%d rounds %v: %d calls were answered late or with an error, %d writes were acknowledged, the lock was held %d times, the longest round took %v (%s)",
		rounds, count, s.again, len(s.acked)+s.pruned, len(s.holds), s.longest.Round(time.Millisecond), s.slowest)
}

// memberSoak is a soak whose nodes come and go. A node that is no member may run
// or be down.
type memberSoak struct {
	*soak
	member map[int]bool
	addr   []string // of each node
	order  []int    // in which the nodes are called
	again  int      // calls that had to be repeated
}

// insistTime bounds one call. A change may consist of two.
const insistTime = 4 * time.Second

func newMemberSoak(t *testing.T, seed uint64) *memberSoak {
	s := &memberSoak{soak: newSoak(t, seed), member: map[int]bool{0: true, 1: true, 2: true}}
	s.mu.Lock()
	s.serves = func(b *Backend) bool { // a node that is no member serves no client
		state := b.Status().Health.State
		return state != Removed && state != Joining
	}
	s.mu.Unlock()
	for _, c := range s.config {
		s.addr = append(s.addr, c.peerAddr(c.ID))
	}
	for _, id := range []string{"d", "e"} {
		c := s.config[0]
		c.ID, c.Dir, c.Listen, c.Advertise = id, filepath.Join("/soak", id), "", ""
		s.mu.Lock()
		s.config, s.files, s.nodes = append(s.config, c), append(s.files, disktest.New()), append(s.nodes, nil)
		s.counted = append(s.counted, nil)
		s.mu.Unlock()
		s.addr = append(s.addr, reserveAddr(t))
	}
	return s
}

// begin starts node i with a list of itself and two members.
func (s *memberSoak) begin(i int) {
	c := &s.config[i]
	c.Peers = []Peer{{ID: c.ID, Addr: s.addr[i]}}
	for _, j := range s.random.Perm(len(s.nodes)) {
		if j != i && s.member[j] && len(c.Peers) < 3 {
			c.Peers = append(c.Peers, Peer{ID: s.config[j].ID, Addr: s.addr[j]})
		}
	}
	s.start(i)
}

// pick returns a random node for which is is true.
func (s *memberSoak) pick(is func(i int) bool) int {
	for _, i := range s.random.Perm(len(s.nodes)) {
		if is(i) {
			return i
		}
	}
	return -1
}

func (s *memberSoak) isMember(i int) bool { return s.member[i] }
func (s *memberSoak) isOther(i int) bool  { return !s.member[i] }

// leads reports whether node i leads.
func (s *memberSoak) leads(i int) bool { return s.nodes[i] != nil && s.nodes[i].node.leading() != 0 }

// memberChange is a change of the members and the node that it concerns.
type memberChange struct {
	name  string
	about int
	call  func(ctx context.Context, at *Membership) error
	done  func() // records the effect
}

// plan chooses a change that is possible now.
func (s *memberSoak) plan() memberChange {
	size := len(s.member)
	for {
		switch n := s.random.IntN(8); {
		case n <= 2 && size < 4:
			return s.planAdd(n == 2)
		case n <= 4 && size > 3:
			about := s.pick(func(i int) bool { return s.member[i] && (n == 3 || s.leads(i)) })
			if about >= 0 {
				return s.planRemove(about)
			}
		case n == 5:
			about := s.pick(s.isMember)
			id := s.config[about].ID
			return memberChange{"transfer", about, func(ctx context.Context, at *Membership) error { return at.Transfer(ctx, id) }, func() {}}
		case n == 6:
			return s.planMove(s.pick(s.isMember), false)
		case n == 7:
			return s.planMove(s.pick(s.isMember), true)
		}
	}
}

func (s *memberSoak) planAdd(inSteps bool) memberChange {
	about := s.pick(s.isOther)
	id, addr := s.config[about].ID, s.addr[about]
	if s.nodes[about] == nil || s.random.IntN(2) == 0 { // else it keeps running
		s.end(about)
		s.files[about] = s.files[about].Kill()
		if s.random.IntN(2) == 0 {
			s.files[about] = disktest.New()
		}
		s.begin(about)
	}
	c := memberChange{"add", about, func(ctx context.Context, at *Membership) error { return at.AddVoter(ctx, id, addr) }, func() { s.member[about] = true }}
	if inSteps {
		c.name = "add without a vote first"
		c.call = func(ctx context.Context, at *Membership) error {
			if members, err := at.Members(ctx); err != nil || !slices.ContainsFunc(members, func(m Member) bool { return m.ID == id && m.Voter }) {
				if err := at.AddNonVoter(ctx, id, addr); err != nil {
					return err
				}
			}
			return at.AddVoter(ctx, id, addr)
		}
	}
	return c
}

func (s *memberSoak) planRemove(about int) memberChange {
	id, name := s.config[about].ID, "remove"
	if s.leads(about) {
		name = "remove the leader"
	}
	return memberChange{name, about, func(ctx context.Context, at *Membership) error {
		if err := at.Remove(ctx, id); !errors.Is(err, dcs.ErrNotFound) {
			return err
		}
		return nil // an earlier call has removed it
	}, func() { delete(s.member, about) }}
}

// planMove starts a member at another address, with its data or without.
func (s *memberSoak) planMove(about int, empty bool) memberChange {
	name := "move"
	s.halt(about)
	s.files[about] = s.files[about].Kill()
	if empty {
		name, s.files[about] = "replace elsewhere", disktest.New()
	}
	s.addr[about] = reserveAddr(s.t)
	s.begin(about)
	id, addr := s.config[about].ID, s.addr[about]
	return memberChange{name, about, func(ctx context.Context, at *Membership) error { return at.Move(ctx, id, addr) }, func() {}}
}

// change makes one change, in which a node is killed or frozen, and waits until all
// members are well.
func (s *memberSoak) change() string {
	begun := time.Now()
	c := s.plan()
	victim, target := s.victim(c)
	faults := []string{"kill", "freeze"}
	if victim == c.about && s.isOther(victim) { // all other nodes keep their data
		faults = append(faults, "lose the data")
	}
	fault := faults[s.random.IntN(len(faults))]
	name := fmt.Sprintf("%s, %s of %s", c.name, fault, target)
	s.order = s.random.Perm(len(s.nodes))
	delay, outage := s.between(0, 500), s.between(200, 1500)
	var injecting sync.WaitGroup
	if victim >= 0 {
		injecting.Go(func() {
			backoff.Sleep(s.t.Context(), delay)
			s.injectFault(victim, fault, outage)
		})
	}
	err := s.insist(c)
	injecting.Wait()
	require.NoError(s.t, err, "%s\n%s", name, s.statuses())
	c.done()
	s.wholeMembers(name)
	s.check()
	s.prune()
	took := time.Since(begun)
	if took > s.longest {
		s.longest, s.slowest = took, name
	}
	return c.name
}

func (s *memberSoak) between(least, most int) time.Duration {
	return time.Duration(least+s.random.IntN(most-least)) * time.Millisecond
}

// victim chooses the node that is killed or frozen during a change.
func (s *memberSoak) victim(c memberChange) (int, string) {
	switch s.random.IntN(5) {
	case 0:
		return s.pick(s.leads), "the leader"
	case 1:
		return s.pick(func(i int) bool { return s.member[i] && !s.leads(i) && i != c.about }), "a node that may lead next"
	case 2:
		return c.about, "the node itself"
	case 3:
		return s.pick(s.isMember), "a member"
	}
	return -1, "no node"
}

// injectFault kills a node and starts it again, with its data or without, or freezes it for
// a while.
func (s *memberSoak) injectFault(i int, fault string, outage time.Duration) {
	if fault != "freeze" {
		s.files[i].Halt()
		s.end(i)
		s.files[i] = s.files[i].Kill()
		if fault == "lose the data" {
			s.files[i] = disktest.New()
		}
		backoff.Sleep(s.t.Context(), outage)
		s.start(i)
		return
	}
	s.mu.Lock()
	b := s.nodes[i]
	s.mu.Unlock()
	if b == nil {
		return
	}
	release := s.files[i].Block(disktest.Any(disktest.Changes()...))
	frozen := errors.New("frozen")
	for _, k := range []transport.Kind{transport.KindRaft, transport.KindCall, transport.KindSetup} {
		b.node.net.Gate(k, frozen)
	}
	backoff.Sleep(s.t.Context(), outage)
	for _, k := range []transport.Kind{transport.KindRaft, transport.KindCall, transport.KindSetup} {
		b.node.net.Gate(k, nil)
	}
	release()
}

// insist calls one member after the other until the change is made. The error has those
// of all calls.
func (s *memberSoak) insist(c memberChange) error {
	var said []error
	for n, deadline := 0, time.Now().Add(soakWait); time.Now().Before(deadline); n++ {
		s.mu.Lock()
		var b *Backend
		if i := s.order[n%len(s.order)]; s.member[i] {
			b = s.nodes[i]
		}
		s.mu.Unlock()
		if b == nil {
			backoff.Sleep(s.t.Context(), time.Millisecond)
			continue
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), insistTime)
		begun := dcs.Now()
		err := c.call(ctx, b.Membership())
		cancel()
		if took := begun.Elapsed(); took > insistTime+time.Second {
			return fmt.Errorf("a call took %v: %w", took, err)
		}
		if err == nil {
			return nil
		}
		said = append(said, fmt.Errorf("at %s: %w", b.config.ID, err))
		s.again++
		backoff.Sleep(s.t.Context(), 50*time.Millisecond)
	}
	return errors.Join(said[max(0, len(said)-8):]...)
}

// wholeMembers waits until the members are well and know exactly each other, and the
// other nodes know that they are no members.
func (s *memberSoak) wholeMembers(name string) {
	s.t.Helper()
	deadline := time.Now().Add(soakWait)
	for {
		problem := s.memberProblem()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: the cluster is not whole after %v: %s\n%s", name, soakWait, problem, s.statuses())
		}
		backoff.Sleep(s.t.Context(), 10*time.Millisecond)
	}
}

func (s *memberSoak) memberProblem() string {
	var want []string
	for _, i := range slices.Sorted(maps.Keys(s.member)) {
		want = append(want, s.config[i].ID+"="+s.addr[i])
	}
	for i, b := range s.nodes {
		if b == nil {
			continue
		}
		st := b.Status()
		var have []string
		for _, m := range st.Members {
			if m.Voter {
				have = append(have, m.ID+"="+m.Addr)
			}
		}
		switch {
		case !s.member[i] && st.Health.State == Removed, !s.member[i] && st.Health.State == Joining:
		case !s.member[i], st.Health.State != Well:
			return fmt.Sprintf("node %s is %s: %v", st.ID, st.Health.State, st.Health.Err)
		case st.LeaderID == "":
			return fmt.Sprintf("node %s knows no leader", st.ID)
		case len(st.Members) != len(want) || !slices.Equal(have, want):
			return fmt.Sprintf("node %s knows the members %+v, want %s", st.ID, st.Members, strings.Join(want, " "))
		}
	}
	return ""
}

// statuses describes all nodes.
func (s *memberSoak) statuses() string {
	var all strings.Builder
	for i, b := range s.nodes {
		if b == nil {
			fmt.Fprintf(&all, "node %s is down\n", s.config[i].ID)
			continue
		}
		st := b.Status()
		fmt.Fprintf(&all, "node %s at %s: member %v, %s (%v), %s of term %d, leader %s, log %d, committed %d, applied %d, members %+v\n",
			st.ID, st.Addr, s.member[i], st.Health.State, st.Health.Err, st.State, st.Term, st.LeaderID, st.LastLog, st.Committed, st.Applied, st.Members)
	}
	return all.String()
}
