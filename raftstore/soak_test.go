package raftstore

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

var (
	soakRounds = flag.Int("soak.rounds", 0, "rounds of TestSoak; 0 is one of each kind")
	soakSeed   = flag.Uint64("soak.seed", 0, "seed of TestSoak; 0 chooses one")
)

// soakTiming makes a lock move often, and gives a call room for an election.
var soakTiming = dcs.Timing{TTL: 3 * time.Second, LoopWait: 400 * time.Millisecond, RetryTimeout: 1200 * time.Millisecond}

// soakWait bounds the time until all nodes of a cluster are well again, and the time of
// a call that is repeated until it is answered.
const soakWait = 30 * time.Second

// TestSoak injects a fault into one node after the other, at a random operation of its
// disk, while others write and take a lock in turns. Each acknowledged write must stay,
// tokens must rise, and no two holders may be valid at once.
func TestSoak(t *testing.T) {
	parallel(t)
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	rounds := *soakRounds
	if rounds == 0 {
		rounds = len(soakFaults)
	}
	t.Logf("-soak.seed=%d -soak.rounds=%d", seed, rounds)
	s := newSoak(t, seed)
	count := map[string]int{}
	for round := range rounds {
		f := soakFaults[s.random.IntN(len(soakFaults))]
		if *soakRounds == 0 {
			f = soakFaults[round]
		}
		count[f.name]++
		s.round(f)
		if t.Failed() {
			t.Fatalf("round %d (%s), -soak.seed=%d", round, f.name, seed)
		}
	}
	s.finish()
	t.Logf("%d rounds %v: %d writes were acknowledged, %d segments were begun, the lock was held %d times, the longest repair took %v (%s)",
		rounds, count, len(s.acked)+s.pruned, s.segments.Load(), len(s.holds), s.longest.Round(time.Millisecond), s.slowest)
}

// soakFault is a kind of fault of one node.
type soakFault struct {
	name string
	// inject injects the fault into node i and returns once it is over. The node may
	// be down then.
	inject func(s *soak, i int)
}

var soakFaults = []soakFault{
	{"kill", func(s *soak, i int) { s.halt(i); s.files[i] = s.files[i].Kill() }},
	{"power", func(s *soak, i int) { s.halt(i); s.files[i] = s.files[i].Crash(s.random.Uint64()) }},
	{"disk full", func(s *soak, i int) { s.failing(i, syscall.ENOSPC, disktest.Write, disktest.Allocate, disktest.Create) }},
	{"read-only", func(s *soak, i int) { s.failing(i, syscall.EROFS, disktest.Changes()...) }},
	{"one error", (*soak).oneError},
	{"stall", (*soak).stall},
	{"flip", (*soak).flip},
	{"wipe", func(s *soak, i int) { s.halt(i); s.files[i] = disktest.New() }},
	{"wipe twice", (*soak).wipeTwice},
	{"restore", (*soak).restore},
	{"leader dies during a join", (*soak).leaderDiesDuringJoin},
}

// soak is a cluster of three nodes on file systems in memory.
type soak struct {
	t      *testing.T
	random *rand.Rand
	files  []*disktest.FS
	older  []*disktest.FS // as they were at the beginning of the last round
	config []Config

	mu      sync.Mutex
	suite   suite
	nodes   []*Backend // nil where a node is down
	acked   map[string]dcs.Revision
	pruned  int
	largest dcs.Revision
	holds   []holdPeriod
	serves  func(b *Backend) bool // reports whether a node is used; nil is every node

	log      recentLines
	segments atomic.Int64   // begun by all nodes
	counted  []*disktest.FS // the file systems whose segments are counted

	longest time.Duration
	slowest string
	stop    context.CancelFunc
	working sync.WaitGroup
}

// holdPeriod is a period in which a holder was valid.
type holdPeriod struct {
	token    dcs.Revision
	from, to time.Time
}

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{
		t: t, random: rand.New(rand.NewPCG(seed, 1)),
		config: clusterConfigs(t, 3), nodes: make([]*Backend, 3), counted: make([]*disktest.FS, 3), acked: map[string]dcs.Revision{},
	}
	for i := range s.config {
		c := &s.config[i]
		c.Dir, c.Timing, c.MinTTL = filepath.Join("/soak", c.ID), soakTiming, time.Second
		c.HeartbeatTimeout = 150 * time.Millisecond
		c.SnapshotThreshold, c.SnapshotInterval = 200, 50*time.Millisecond
		c.Logger = slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", c.ID)
		s.files = append(s.files, disktest.New())
	}
	for i := range s.config {
		s.start(i)
	}
	t.Cleanup(func() {
		s.report()
		for i := range s.config {
			s.end(i)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	s.whole()
	s.working.Go(func() { s.write(ctx) })
	for range 2 {
		s.working.Go(func() { s.lead(ctx) })
	}
	return s
}

func (s *soak) start(i int) {
	require.NoError(s.t, s.open(i, false), "start of node %s", s.config[i].ID)
}

// open starts node i, and lets it give up data that it must not use.
func (s *soak) open(i int, rejoin bool) error {
	h, c := memoryHooks(s.files[i]), s.config[i]
	c.Rejoin = rejoin
	if s.counted[i] != s.files[i] {
		s.counted[i] = s.files[i]
		s.files[i].Inject(func(op disktest.Op) error {
			if op.Kind == disktest.Create && filepath.Ext(op.Path) == ".seg" {
				s.segments.Add(1)
			}
			return nil
		})
	}
	b, err := newBackend(c, h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[i] = b
	return nil
}

// end ends a node, whose disk may have lost power.
func (s *soak) end(i int) {
	s.mu.Lock()
	b := s.nodes[i]
	s.nodes[i] = nil
	s.mu.Unlock()
	if b != nil {
		_ = b.Close() // it fails if the disk has no power
	}
}

// up returns the nodes that run.
func (s *soak) up() []*Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.nodes), func(b *Backend) bool { return b == nil || s.serves != nil && !s.serves(b) })
}

// round injects a fault into one node and waits until all nodes are well.
func (s *soak) round(f soakFault) {
	before := make([]*disktest.FS, len(s.files))
	for i, files := range s.files {
		before[i] = files.Kill()
	}
	i := s.random.IntN(len(s.nodes))
	fmt.Fprintf(&s.log, "time=%s a round begins: %s, node %s\n", time.Now().UTC().Format(time.RFC3339Nano), f.name, s.config[i].ID)
	f.inject(s, i)
	over := time.Now()
	if s.nodes[i] == nil {
		s.start(i)
	}
	s.whole()
	if took := time.Since(over); took > s.longest {
		s.longest, s.slowest = took, f.name
	}
	s.check()
	s.prune()
	s.older = before
}

// prune deletes the oldest of the keys that were written.
func (s *soak) prune() {
	const kept, batch = 2000, 100
	s.mu.Lock()
	keys := slices.Sorted(maps.Keys(s.acked))
	keys = keys[:max(0, len(keys)-kept)]
	for _, key := range keys {
		delete(s.acked, key)
	}
	s.pruned += len(keys)
	s.mu.Unlock()
	for part := range slices.Chunk(keys, batch) {
		var txn dcs.Txn
		for _, key := range part {
			txn.Then = append(txn.Then, dcs.Delete(key))
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), soakTiming.RetryTimeout)
		if b := s.anyNode(0); b != nil {
			_, _ = b.Commit(ctx, txn) // if it fails, they stay
		}
		cancel()
	}
}

// whole waits until all three nodes vote and are well.
func (s *soak) whole() {
	s.t.Helper()
	deadline := time.Now().Add(soakWait)
	for {
		problem := s.problem()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the cluster is not whole after %v: %s", soakWait, problem)
		}
		backoff.Sleep(s.t.Context(), 10*time.Millisecond)
	}
}

func (s *soak) problem() string {
	var leader string
	for i, b := range s.nodes {
		st := b.Status()
		switch {
		case st.Health.State != Well:
			return fmt.Sprintf("node %s is %s: %v", st.ID, st.Health.State, st.Health.Err)
		case st.LeaderID == "":
			return fmt.Sprintf("node %s knows no leader", st.ID)
		case len(st.Voters) != len(s.nodes):
			return fmt.Sprintf("node %s knows the voters %v", st.ID, st.Voters)
		case i > 0 && leader != st.LeaderID:
			return fmt.Sprintf("node %s follows %s, another one %s", st.ID, st.LeaderID, leader)
		}
		leader = st.LeaderID
	}
	return ""
}

// report prints the state of every node and the last lines of the log, if the
// test failed.
func (s *soak) report() {
	if !s.t.Failed() {
		return
	}
	for i, b := range s.nodes {
		if b == nil {
			s.t.Logf("node %s is down", s.config[i].ID)
			continue
		}
		s.t.Logf("node %s: %+v", s.config[i].ID, b.Status())
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.t.Logf("the last lines of the log:\n%s", strings.Join(s.log.lines, ""))
}

// recentLines keeps the newest lines that are written to it.
type recentLines struct {
	mu    sync.Mutex
	lines []string
}

// Write implements io.Writer. Each call writes one line.
func (r *recentLines) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, string(line))
	if len(r.lines) > 2000 {
		r.lines = slices.Delete(r.lines, 0, 1000)
	}
	return len(line), nil
}

// halt ends node i as if it lost power, before a random change of its disk, or after a
// while without a change.
func (s *soak) halt(i int) {
	halted := make(chan struct{})
	at := disktest.Nth(1+s.random.IntN(60), disktest.Any(disktest.Changes()...))
	files := s.files[i]
	stop := files.Inject(func(op disktest.Op) error {
		if at(op) {
			files.Halt()
			close(halted)
		}
		return nil
	})
	defer stop()
	waitFor(halted, 2*time.Second)
	files.Halt()
	s.end(i)
}

func waitFor(c <-chan struct{}, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	}
}

// failing makes operations of node i fail for some time.
func (s *soak) failing(i int, err error, kinds ...disktest.Kind) {
	stop := s.files[i].Fail(disktest.Any(kinds...), err)
	s.sleep(100*time.Millisecond, 2500*time.Millisecond)
	stop()
}

func (s *soak) sleep(least, most time.Duration) {
	backoff.Sleep(s.t.Context(), least+time.Duration(s.random.Int64N(int64(most-least))))
}

// oneError makes one operation of any kind of node i fail.
func (s *soak) oneError(i int) {
	failed := make(chan struct{})
	at := disktest.Nth(1+s.random.IntN(40), disktest.Any())
	stop := s.files[i].Inject(func(op disktest.Op) error {
		if at(op) {
			close(failed)
			return syscall.EIO
		}
		return nil
	})
	defer stop()
	waitFor(failed, 2*time.Second)
}

// stall makes every operation of node i hang for some time.
func (s *soak) stall(i int) {
	release := s.files[i].Block(disktest.Any(disktest.Changes()...))
	s.sleep(500*time.Millisecond, 4*time.Second)
	release()
}

// flip changes a random bit on the disk of node i while the node is down. The node
// refuses to start and names a file, or the bit was not used.
func (s *soak) flip(i int) {
	s.halt(i)
	files := s.files[i].Kill()
	s.files[i] = files
	paths := slices.DeleteFunc(files.Paths(), func(p string) bool { return len(files.Data(p)) == 0 })
	path := paths[s.random.IntN(len(paths))]
	files.Flip(path, s.random.Int64N(8*int64(len(files.Data(path)))))
	if err := s.open(i, false); err != nil {
		require.ErrorContains(s.t, err, filepath.Base(path))
		require.ErrorContains(s.t, err, "rejoin")
		require.NoError(s.t, s.open(i, true), "rejoin of node %s", s.config[i].ID)
	}
}

// wipeTwice deletes the data of node i while it joins after a first loss.
func (s *soak) wipeTwice(i int) {
	s.halt(i)
	s.files[i] = disktest.New()
	s.start(i)
	s.halt(i)
	s.files[i] = disktest.New()
}

// restore replaces the data of node i by an older copy, while the others run.
func (s *soak) restore(i int) {
	s.halt(i)
	if s.older == nil {
		s.files[i] = s.files[i].Kill()
		return
	}
	s.files[i] = s.older[i].Kill()
	// The copy may be that of a life that another one has replaced since.
	require.NoError(s.t, s.open(i, true))
}

// leaderDiesDuringJoin kills the leader while node i joins.
func (s *soak) leaderDiesDuringJoin(i int) {
	s.halt(i)
	s.files[i] = disktest.New()
	s.start(i)
	s.sleep(time.Millisecond, 600*time.Millisecond)
	for j, b := range s.nodes {
		if j != i && b.Status().State == "Leader" {
			s.halt(j)
			s.files[j] = s.files[j].Kill()
			s.start(j)
			return
		}
	}
}

// client returns a client of node b with bookkeeping of its own.
func (s *soak) client(b *Backend) *suiteClient { return s.suite.on(b) }

// anyNode returns a node that runs, or nil.
func (s *soak) anyNode(n int) *Backend {
	up := s.up()
	if len(up) == 0 {
		return nil
	}
	return up[n%len(up)]
}

// write writes numbered keys, one after the other, until ctx ends.
func (s *soak) write(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		b := s.anyNode(n)
		if b == nil {
			backoff.Sleep(ctx, 10*time.Millisecond)
			continue
		}
		key := fmt.Sprintf("w/%07d", n)
		one, cancel := context.WithTimeout(ctx, soakTiming.RetryTimeout)
		rev, err := b.Commit(one, dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(key))}})
		cancel()
		if err == nil {
			s.ack(key, rev)
		}
		backoff.Sleep(ctx, 2*time.Millisecond)
	}
}

// ack records an acknowledged write. One client writes, one write after the other, so
// that revisions rise.
func (s *soak) ack(key string, rev dcs.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev <= s.largest {
		s.t.Errorf("revision %d of %s is not above %d, which was acknowledged before", rev, key, s.largest)
	}
	s.largest = max(s.largest, rev)
	s.acked[key] = rev
}

// lead repeatedly takes the lock and holds it for a while.
func (s *soak) lead(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		if b := s.anyNode(n); b != nil {
			s.holdOnce(ctx, b)
		}
		backoff.Sleep(ctx, 10*time.Millisecond)
	}
}

func (s *soak) holdOnce(ctx context.Context, b *Backend) {
	store, err := dcs.New(s.client(b), dcs.Options{Timing: soakTiming})
	if err != nil {
		return
	}
	defer store.Close()
	session, err := store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		return
	}
	defer session.Close(ctx)
	hold, err := session.Acquire(ctx, "lock", nil)
	if err != nil {
		return
	}
	t := holdPeriod{token: hold.Token()}
	for range 40 {
		if now := time.Now(); hold.Valid() {
			if t.from.IsZero() {
				t.from = now
			}
			t.to = now
		}
		waitFor(hold.Done(), 10*time.Millisecond)
	}
	_ = hold.Release(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.from.IsZero() {
		s.holds = append(s.holds, t)
	}
}

// check reads back all writes and checks the order of holders.
func (s *soak) check() {
	s.t.Helper()
	snapshot := s.read()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, rev := range s.acked {
		if rev > snapshot.Revision {
			continue // acknowledged since
		}
		if e, ok := snapshot.Get(key); !ok || e.Modified != rev || string(e.Value) != key {
			s.t.Errorf("%s was acknowledged with revision %d and is missing (%v at %d)", key, rev, e.Modified, snapshot.Revision)
		}
	}
	holds := slices.Clone(s.holds)
	slices.SortFunc(holds, func(a, b holdPeriod) int { return a.from.Compare(b.from) })
	for i := 1; i < len(holds); i++ {
		a, b := holds[i-1], holds[i]
		if b.from.Before(a.to) {
			s.t.Errorf("two holders were valid at once for %v (tokens %d and %d)", a.to.Sub(b.from), a.token, b.token)
		}
		if b.token <= a.token {
			s.t.Errorf("token %d after %d", b.token, a.token)
		}
	}
}

// read reads the tree of written keys, with bounded attempts.
func (s *soak) read() dcs.Snapshot {
	s.t.Helper()
	var last error
	for deadline, n := time.Now().Add(soakWait), 0; time.Now().Before(deadline); n++ {
		if b := s.anyNode(n); b != nil {
			ctx, cancel := context.WithTimeout(s.t.Context(), soakTiming.RetryTimeout)
			snapshot, err := b.Snapshot(ctx, "w")
			cancel()
			if err == nil {
				return snapshot
			}
			last = err
		}
	}
	s.t.Fatalf("nothing could be read for %v: %v", soakWait, last)
	return dcs.Snapshot{}
}

// finish ends the work once the logs have rotated, however slow the machine is.
func (s *soak) finish() {
	require.Eventually(s.t, func() bool { return s.segments.Load() > int64(2*len(s.nodes)) }, time.Minute, 10*time.Millisecond,
		"the logs stayed in their first segments")
	s.stop()
	s.working.Wait()
	s.check()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotEmpty(s.t, s.acked)
	require.NotEmpty(s.t, s.holds)
}
