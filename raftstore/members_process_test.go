package raftstore

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

var processRounds = flag.Int("soak.processes", 0, "rounds of TestMembersOfProcesses; 0 is one")

// TestMembersOfProcesses changes the members of a cluster of processes, while a lock
// is held and keys are written over node a, which is in this process. In each round
// a node joins and another one leaves for good, and during each of the two changes a
// process is killed, or frozen as by SIGSTOP. It is the leader, the node that the change
// concerns, or another one.
func TestMembersOfProcesses(t *testing.T) {
	parallel(t)
	if runtime.GOOS != "linux" {
		t.Skip("processes are frozen on Linux only")
	}
	seed, rounds := *soakSeed, max(*processRounds, 1)
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	t.Logf("-soak.seed=%d -soak.processes=%d", seed, rounds)
	m := newMovingProcesses(t, seed)
	lock := m.tc.hold(t, 0)
	for round := range rounds {
		m.join(fmt.Sprintf("n%d", round))
		m.leave()
		require.True(t, lock.hold.Valid(), "round %d: the lock was lost: %v", round, lock.hold.Err())
	}
	lock.end()
	m.finish()
	t.Logf("%d rounds: %d calls had to be repeated, %d writes were acknowledged, the longest change took %v (%s)",
		rounds, m.again, len(m.acked), m.longest.Round(time.Millisecond), m.slowest)
}

// movingProcesses is a cluster of processes whose members change.
type movingProcesses struct {
	*processes
	t      *testing.T
	random *rand.Rand
	at     map[string]*child // the members but a, by name
	addr   map[string]string

	again   int
	longest time.Duration
	slowest string

	mu      sync.Mutex
	acked   map[string]dcs.Revision
	stop    context.CancelFunc
	writing sync.WaitGroup
}

func newMovingProcesses(t *testing.T, seed uint64) *movingProcesses {
	m := &movingProcesses{
		processes: startProcesses(t, 0, func(*Config) {}), t: t, random: rand.New(rand.NewPCG(seed, 2)),
		at: map[string]*child{}, addr: map[string]string{}, acked: map[string]dcs.Revision{},
	}
	for i, c := range m.configs[1:] {
		m.at[c.ID], m.addr[c.ID] = m.nodes[i], c.peerAddr(c.ID)
	}
	ctx, stop := context.WithCancel(t.Context())
	m.stop = stop
	m.writing.Go(func() { m.write(ctx) })
	t.Cleanup(func() { stop(); m.writing.Wait() })
	return m
}

func (m *movingProcesses) write(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("w/%06d", n)
		one, cancel := context.WithTimeout(ctx, suiteTiming.RetryTimeout)
		rev, err := m.tc.node[0].Commit(one, dcs.Txn{Then: []dcs.Write{dcs.Put(key, nil)}})
		cancel()
		if err == nil {
			m.mu.Lock()
			m.acked[key] = rev
			m.mu.Unlock()
		}
		backoff.Sleep(ctx, 5*time.Millisecond)
	}
}

// finish checks that every acknowledged write is present.
func (m *movingProcesses) finish() {
	m.stop()
	m.writing.Wait()
	snapshot, err := m.tc.node[0].Snapshot(testCtx(m.t), "w")
	require.NoError(m.t, err)
	require.NotEmpty(m.t, m.acked)
	for key, rev := range m.acked {
		e, ok := snapshot.Get(key)
		require.True(m.t, ok && e.Modified == rev, "%s was acknowledged with revision %d and is missing", key, rev)
	}
}

// join starts a node that knows a only and makes it a voter.
func (m *movingProcesses) join(id string) {
	c := m.configs[1]
	c.ID, c.Dir = id, filepath.Join(m.t.TempDir(), id)
	c.Peers = []Peer{{ID: id, Addr: reserveAddr(m.t)}, m.configs[0].Peers[0]}
	n := &child{url: urlOf(c)}
	n.start(m.t)
	m.t.Cleanup(func() { n.proc.Kill() })
	m.at[id], m.addr[id] = n, c.Peers[0].Addr
	m.change("join", id, func(ctx context.Context, at *Membership) error { return at.AddVoter(ctx, id, m.addr[id]) })
}

// leave removes the leader, or another node if a leads, and ends its process.
func (m *movingProcesses) leave() {
	id := m.tc.node[0].Status().LeaderID
	if m.at[id] == nil || m.random.IntN(2) == 0 {
		id = m.any("")
	}
	m.change("leave", id, func(ctx context.Context, at *Membership) error {
		if err := at.Remove(ctx, id); !errors.Is(err, dcs.ErrNotFound) {
			return err
		}
		return nil
	})
	m.at[id].proc.Kill()
	delete(m.at, id)
}

// any returns the name of a process that is not this one.
func (m *movingProcesses) any(not string) string {
	ids := sortedKeys(m.at)
	for {
		if id := ids[m.random.IntN(len(ids))]; id != not {
			return id
		}
	}
}

// change makes a change while a process is killed or frozen, and waits until all members
// answer.
func (m *movingProcesses) change(kind, id string, call func(ctx context.Context, at *Membership) error) {
	m.t.Helper()
	victim := []string{m.tc.node[0].Status().LeaderID, id, m.any(id)}[m.random.IntN(3)]
	kill := m.random.IntN(2) == 0
	delay := time.Duration(m.random.IntN(400)) * time.Millisecond
	outage := time.Duration(200+m.random.IntN(1300)) * time.Millisecond
	name := fmt.Sprintf("%s of %s, kill %v of %s", kind, id, kill, victim)
	var injecting sync.WaitGroup
	if n := m.at[victim]; n != nil {
		injecting.Go(func() {
			backoff.Sleep(m.t.Context(), delay)
			if kill {
				n.proc.Kill()
				backoff.Sleep(m.t.Context(), outage)
				n.start(m.t)
				return
			}
			thaw, err := n.proc.Freeze()
			if err == nil {
				backoff.Sleep(m.t.Context(), outage)
				thaw()
			}
		})
	}
	begun := dcs.Now()
	var last error
	for {
		ctx, cancel := context.WithTimeout(testCtx(m.t), 4*time.Second)
		one := dcs.Now()
		last = call(ctx, m.tc.node[0].Membership())
		cancel()
		require.Less(m.t, one.Elapsed(), 5*time.Second, "%s: %v", name, last)
		if last == nil {
			break
		}
		m.again++
		require.Less(m.t, begun.Elapsed(), time.Minute, "%s: %v", name, last)
		backoff.Sleep(m.t.Context(), 20*time.Millisecond)
	}
	injecting.Wait()
	if took := begun.Elapsed(); took > m.longest {
		m.longest, m.slowest = took, name
	}
	want := len(m.at) + 1
	if kind == "leave" {
		want--
	}
	var members []Member
	require.Eventually(m.t, func() bool {
		ctx, cancel := context.WithTimeout(testCtx(m.t), 4*time.Second)
		defer cancel()
		members, last = m.tc.node[0].Membership().Members(ctx)
		whole := last == nil && len(members) == want
		for _, one := range members {
			whole = whole && one.Voter && one.LastContact >= 0 && one.LastContact < time.Second && one.Lag < 50
		}
		return whole
	}, time.Minute, 20*time.Millisecond, "%s: some members do not answer: %v %+v", name, last, members)
}
