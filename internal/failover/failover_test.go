//go:build linux

package failover

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/expiry"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// timing is that of all members.
var timing = dcs.Timing{TTL: 4 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 1700 * time.Millisecond}

const (
	// limit bounds each wait for an event that has no bound of its own.
	limit = 30 * time.Second
	// takeover is the time of a takeover after the lock is free, without Promote.
	takeover = 200 * time.Millisecond
)

// election has the election timeouts that keep a busy machine from elections, which make
// every lease last longer.
var election = map[testcluster.Kind]time.Duration{testcluster.Raft: 4 * time.Second}

// slow reports whether the tests take long.
var slow = os.Getenv("HOLDFAST_PROFILE") == "slow"

// rounds returns the number of rounds of each fault.
func rounds() int {
	if slow {
		return 20
	}
	return 2
}

// onRaft is the URL of the embedded store, see storeURL.
const onRaft = "raft://%s/" + testcluster.RaftRoot + "?discovery=false&"

func TestFailoverOnRaft(t *testing.T) {
	t.Parallel()
	onStore(t, testcluster.Raft, onRaft, timing.TTL)
}

func TestFailoverOnEtcd(t *testing.T) {
	t.Parallel()
	onStore(t, testcluster.Etcd, "etcd3://%s/failover?", expiry.Etcd3(timing.TTL))
}

// failures are the faults of a leader. A guarded service is a process of its own, which
// goes on when the process of its elector does not.
var failures = []struct {
	name string
	env  []string
	fail func(*group) time.Duration
}{
	{"killed", nil, (*group).kill},
	{"stopped", nil, (*group).stop},
	{"guarded-killed", guarded, (*group).kill},
	{"guarded-stopped", guarded, (*group).stop},
	{"guarded-stopped-with-service", guarded, (*group).stopWithService},
}

// guarded is the environment of members with guarded services.
var guarded = []string{memberGuarded + "=1"}

// onStore runs the rounds on a store. free is the longest time after a renewal at which
// the store removes the lock.
func onStore(t *testing.T, kind testcluster.Kind, url string, free time.Duration) {
	c := testcluster.New(t, testcluster.Options{Kind: kind, Loopback: true, Election: election[kind]})
	url = storeURL(c, url)
	t.Run("processes", func(t *testing.T) {
		for _, c := range failures {
			if c.env != nil && kind != testcluster.Raft && !slow {
				continue // a guardian does the same on each store
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := startGroup(t, url, c.name, c.env, "a", "b")
				for range rounds() {
					p.round(c.name, free, c.fail)
				}
				p.judge()
			})
		}
	})
	t.Run("store frozen", func(t *testing.T) {
		p := startGroup(t, url, "frozen", nil, "a", "b")
		for range rounds() {
			p.freeze(c)
		}
		p.judge()
	})
}

// storeURL returns the URL of the store for members. format has a place for the endpoints.
func storeURL(c *testcluster.Cluster, format string) string {
	return fmt.Sprintf(format, strings.Join(c.Endpoints(), ",")) +
		fmt.Sprintf("wait=true&ttl=%v&loop_wait=%v&retry_timeout=%v", timing.TTL, timing.LoopWait, timing.RetryTimeout)
}

// process is a member and its record.
type process struct {
	*fault.Process
	name   string
	record string
	read   int64 // the number of bytes of the record that are read
	events []event
}

// group is a cluster of members.
type group struct {
	t          *testing.T
	url, scope string
	env        []string
	members    []*process
	ended      []*process // killed
	faults     []interval // in which a member did not run
	stall      *stall
}

// interval is a time in which a member was stopped. to is 0 if it was killed.
type interval struct {
	member   *process
	from, to int64
}

// startGroup starts the members named. env is for all of them.
func startGroup(t *testing.T, url, scope string, env []string, names ...string) *group {
	t.Helper()
	p := &group{t: t, url: url, scope: scope, env: env, stall: measureStall(t)}
	for _, name := range names {
		p.members = append(p.members, p.start(name))
	}
	return p
}

// start starts a member.
func (p *group) start(name string) *process {
	p.t.Helper()
	exe, err := os.Executable()
	require.NoError(p.t, err)
	m := &process{name: name, record: filepath.Join(p.t.TempDir(), "record")}
	cmd := exec.CommandContext(context.WithoutCancel(p.t.Context()), exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), memberStore+"="+p.url, memberScope+"="+p.scope, memberName+"="+name, memberRecord+"="+m.record)
	cmd.Env = append(cmd.Env, p.env...)
	log, err := os.Create(m.record + ".log")
	require.NoError(p.t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	m.Process, err = fault.StartProcess(cmd)
	require.NoError(p.t, err)
	p.t.Cleanup(func() {
		m.Kill()
		if text, err := os.ReadFile(log.Name()); err == nil && p.t.Failed() {
			p.t.Logf("member %s:\n%s", name, text)
		}
	})
	return m
}

// poll reads new events.
func (m *process) poll(t *testing.T) {
	t.Helper()
	record, err := os.Open(m.record)
	if os.IsNotExist(err) {
		return
	}
	require.NoError(t, err)
	defer record.Close()
	_, err = record.Seek(m.read, io.SeekStart)
	require.NoError(t, err)
	unread, err := io.ReadAll(record)
	require.NoError(t, err)
	for {
		line, rest, whole := bytes.Cut(unread, []byte("\n"))
		if !whole {
			return
		}
		var e event
		require.NoError(t, json.Unmarshal(line, &e), "%s", line)
		m.events = append(m.events, e)
		m.read, unread = m.read+int64(len(line))+1, rest
	}
}

// state returns the last event that is not an act.
func (m *process) state() event {
	for _, e := range slices.Backward(m.events) {
		if e.Event != acted {
			return e
		}
	}
	return event{}
}

// acts reports whether the service is primary and has acted.
func (m *process) acts() bool {
	return m.state().Event == promoted && m.events[len(m.events)-1].Event == acted
}

// until waits until ok accepts the state of a member, and returns that event.
func (p *group) until(m *process, text string, ok func(event) bool) event {
	p.t.Helper()
	for began := dcs.Now(); began.Elapsed() < limit; time.Sleep(actEvery) {
		require.NoError(p.t, m.Err(), "%s: member %s has ended", p.scope, m.name)
		m.poll(p.t)
		if e := m.state(); ok(e) {
			return e
		}
	}
	p.t.Fatalf("%s: member %s: %s: not within %v: the last event is %+v", p.scope, m.name, text, limit, m.state())
	return event{}
}

func is(name string) func(event) bool { return func(e event) bool { return e.Event == name } }

// settled waits until the service of one member acts and the other ones follow, and returns them.
func (p *group) settled() (leader *process, others []*process) {
	p.t.Helper()
	for began := dcs.Now(); began.Elapsed() < limit; time.Sleep(actEvery) {
		leader, others = nil, nil
		for _, m := range p.members {
			require.NoError(p.t, m.Err(), "%s: member %s has ended", p.scope, m.name)
			m.poll(p.t)
			switch s := m.state().Event; {
			case leader == nil && m.acts():
				leader = m
			case s == ready || s == demoted:
				others = append(others, m)
			}
		}
		if leader != nil && len(others) == len(p.members)-1 {
			return leader, others
		}
	}
	p.t.Fatalf("%s: no leader within %v", p.scope, limit)
	return nil, nil
}

// round makes the leader fail and waits until the other member leads.
func (p *group) round(name string, free time.Duration, fail func(*group) time.Duration) {
	p.t.Helper()
	p.stall.reset()
	took := fail(p)
	control := p.stall.sum()
	p.t.Logf("%s: Promote was called after %v, at most %v (and %v that the machine took, by the control)", name, took, free+takeover, control)
	if took > free+takeover+control {
		p.t.Errorf("%s: the failover took %v, at most %v (and %v that the machine took, by the control)", name, took, free+takeover, control)
	}
}

// kill kills the leader and starts it again once the other member leads.
func (p *group) kill() time.Duration {
	leader, others := p.settled()
	p.end(leader)
	from := clock() // not before, because a busy machine can take a second for it
	e := p.until(others[0], "leads", is(promoted))
	p.restart(leader)
	return time.Duration(e.Called - from)
}

// end kills a member.
func (p *group) end(m *process) {
	m.Kill()
	p.faults = append(p.faults, interval{m, clock(), 0})
}

// restart starts a member again that was killed.
func (p *group) restart(m *process) {
	p.t.Helper()
	m.poll(p.t)
	p.ended = append(p.ended, m)
	p.members[slices.Index(p.members, m)] = p.start(m.name)
}

// stop stops the leader, and continues it once the other member leads.
func (p *group) stop() time.Duration {
	leader, others := p.settled()
	thaw, err := leader.Freeze()
	require.NoError(p.t, err)
	stopped := clock()
	e := p.until(others[0], "leads", is(promoted))
	goes := clock()
	thaw()
	p.faults = append(p.faults, interval{leader, stopped, goes})
	end := p.until(leader, "demotes after it was stopped", is(demoted))
	p.t.Logf("the service ended %v after its process went on: %s", time.Duration(end.At-goes), end.Cause)
	if late := time.Duration(end.At - goes); late > time.Second+p.stall.sum() { // LostTimeout
		p.t.Errorf("the service was primary for %v after its process went on", late)
	}
	return time.Duration(e.Called - stopped)
}

// stopWithService is stop where the service is stopped, too, and killed in that state.
func (p *group) stopWithService() time.Duration {
	leader, _ := p.settled()
	require.NoError(p.t, syscall.Kill(-leader.state().Service, syscall.SIGSTOP))
	return p.stop()
}

// freeze stops all servers for longer than the lock lasts.
func (p *group) freeze(c *testcluster.Cluster) {
	p.t.Helper()
	leader, _ := p.settled()
	p.stall.reset()
	defer freezeAll(p.t, c)()
	from := clock()
	e := p.until(leader, "demotes while the store is frozen", is(demoted))
	took, control := time.Duration(e.At-from), p.stall.sum()
	p.t.Logf("the leader was demoted %v after the store had stopped, at most %v: %s", took, timing.TTL-dcs.Margin(timing.TTL), e.Cause)
	if took > timing.TTL-dcs.Margin(timing.TTL)+control {
		p.t.Errorf("the leader was demoted after %v (and %v that the machine took, by the control)", took, control)
	}
}

// freezeAll stops all servers.
func freezeAll(t *testing.T, c *testcluster.Cluster) (thaw func()) {
	t.Helper()
	var all []func()
	for _, s := range c.Servers() {
		thaw, err := s.Process().Freeze()
		require.NoError(t, err)
		all = append(all, thaw)
	}
	return func() {
		for _, thaw := range all {
			thaw()
		}
	}
}

// judge requires that no two services were primary at one moment.
func (p *group) judge() {
	p.t.Helper()
	var all []moment
	for _, m := range append(p.ended, p.members...) {
		m.poll(p.t)
		for _, e := range m.events {
			all = append(all, moment{m, e})
		}
	}
	acts, faults := check(all, p.faults)
	if len(faults) > 0 {
		p.t.Errorf("%d faults in %d acts, the first and the last one: %s; %s", len(faults), acts, faults[0], faults[len(faults)-1])
	}
	require.Positive(p.t, acts)
}

// moment is an event of a member.
type moment struct {
	member *process
	event
}

// check returns the number of acts, and the faults: an act with a token after a service was
// promoted with a higher one, and a service that is promoted while another one is primary
// in a process that runs.
func check(all []moment, stopped []interval) (acts int, faults []string) {
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Compare(a.At, b.At) })
	var highest uint64
	primary := map[*process]bool{}
	for _, e := range all {
		switch e.Event {
		case acted:
			if acts++; e.Token < highest {
				faults = append(faults, fmt.Sprintf("member %s acted with token %d at %d, after a promotion with token %d", e.member.name, e.Token, e.At, highest))
			}
		case promoted:
			if e.Token <= highest {
				faults = append(faults, fmt.Sprintf("member %s was promoted with token %d at %d, after one with token %d", e.member.name, e.Token, e.At, highest))
			}
			highest = e.Token
			for m := range primary {
				if m != e.member && !isStopped(m, e.At, stopped) {
					faults = append(faults, fmt.Sprintf("member %s was promoted at %d while member %s was primary", e.member.name, e.At, m.name))
				}
			}
			primary[e.member] = true
		case demoted:
			delete(primary, e.member)
		}
	}
	return acts, faults
}

// isStopped reports whether the member did not run at a time.
func isStopped(m *process, at int64, stopped []interval) bool {
	return slices.ContainsFunc(stopped, func(i interval) bool {
		return i.member == m && i.from <= at && (i.to == 0 || at <= i.to)
	})
}
