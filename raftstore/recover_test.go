package raftstore

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk/disktest"
)

// confirmed returns a RecoverConfig that confirms the data of the node.
func confirmed(t testing.TB, c Config, h hooks) RecoverConfig {
	t.Helper()
	plan, err := planRecovery(context.Background(), c, h)
	require.NoError(t, err)
	return RecoverConfig{Node: c, Incarnation: plan.Incarnation, Life: plan.Life}
}

// leased commits a key that is bound to a lease of that TTL.
func leased(t testing.TB, b *Backend, key string, ttl time.Duration) (dcs.Lease, dcs.Revision) {
	t.Helper()
	lease, _, err := b.Grant(testCtx(t), ttl)
	require.NoError(t, err)
	rev, err := b.Commit(testCtx(t), dcs.Txn{If: []dcs.Cond{dcs.Absent(key)}, Then: []dcs.Write{dcs.PutLeased(key, []byte("held"), lease.ID())}})
	require.NoError(t, err)
	return lease, rev
}

// storedSurvivor is storedNode with entries behind the newest snapshot.
func storedSurvivor(t testing.TB) (Config, *disktest.FS) {
	c, files := storedNode(t)
	more := c
	more.SnapshotThreshold = 1 << 20
	b, err := newBackend(more, memoryHooks(files))
	require.NoError(t, err)
	for range 3 {
		_, err := b.Commit(testCtx(t), dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("value"))}})
		require.NoError(t, err)
	}
	require.NoError(t, b.Close())
	return c, files
}

func TestFirstRevision(t *testing.T) {
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	clock := uint64(now.UnixMicro())
	for name, tc := range map[string]struct {
		last  uint64
		least dcs.Revision
		now   time.Time
		want  uint64
	}{
		"clock":               {100, 0, now, clock},
		"clock of 1970":       {100, 0, time.Unix(0, 0), 100 + revisionStep},
		"clock before 1970":   {100, 0, time.Unix(-5, 0), 100 + revisionStep},
		"clock of a far year": {100, 0, now.AddDate(5000, 0, 0), 100 + revisionStep},
		"ahead of the clock":  {clock, 0, now, clock + revisionStep},
		"given":               {100, dcs.Revision(clock + 1), now, clock + 1},
		"given too low":       {clock, 5, now, clock + revisionStep},
	} {
		got, err := firstRevision(tc.last, tc.least, tc.now)
		require.NoError(t, err, name)
		require.Equal(t, tc.want, got, name)
	}
	for _, last := range []uint64{maxRevision - revisionStep + 1, math.MaxUint64} {
		_, err := firstRevision(last, 0, now)
		require.ErrorContains(t, err, "above")
	}
	_, err := firstRevision(1, math.MaxUint64, now)
	require.ErrorContains(t, err, "above")
}

// A recovery needs a confirmation, and refuses a wrong one.
func TestRecoverIsConfirmed(t *testing.T) {
	c, original := storedSurvivor(t)
	ctx := context.Background()
	h := memoryHooks(original)
	before := contents(original)
	plan, err := planRecovery(ctx, c, h)
	require.NoError(t, err)
	require.Equal(t, before, contents(original), "the plan has changed something")
	require.Positive(t, plan.SnapshotIndex)
	require.Greater(t, plan.LastIndex, plan.SnapshotIndex)
	require.Equal(t, 1, plan.Keys)
	require.Zero(t, plan.Missing)
	require.Equal(t, []FormerServer{{ID: "a", Life: plan.Life, Addr: c.Peers[0].Addr, Voter: true}}, plan.Servers)
	require.Empty(t, plan.NewIncarnation+plan.NewLife+plan.Aside)
	good := RecoverConfig{Node: c, Incarnation: plan.Incarnation, Life: plan.Life}
	for name, tc := range map[string]struct {
		edit func(*RecoverConfig)
		want string
	}{
		"nothing":           {func(r *RecoverConfig) { r.Incarnation, r.Life = "", "" }, "must be confirmed"},
		"no life":           {func(r *RecoverConfig) { r.Life = "" }, "must be confirmed"},
		"other life":        {func(r *RecoverConfig) { r.Life = newLife.String() }, "the confirmation is for"},
		"other incarnation": {func(r *RecoverConfig) { r.Incarnation = disk.NewIncarnation().String() }, "the confirmation is for"},
		"other node":        {func(r *RecoverConfig) { r.Node.ID, r.Node.Peers, r.Node.Listen = "b", nil, "127.0.0.1:0" }, `is node "a"'s`},
		"no directory":      {func(r *RecoverConfig) { r.Node.Dir = "/none" }, "cannot be read"},
		"revision":          {func(r *RecoverConfig) { r.MinRevision = math.MaxUint64 }, "revisions would begin"},
		"settings":          {func(r *RecoverConfig) { r.Node.Root = "" }, "Root is empty"},
	} {
		r := good
		tc.edit(&r)
		_, err := recoverOn(ctx, r, h)
		require.ErrorIs(t, err, dcs.ErrInvalid, name)
		require.ErrorContains(t, err, tc.want, name)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = recoverOn(ended, good, h)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, before, contents(original), "a refusal has changed something")
	unlock, err := original.Lock(disk.LockFile(c.Dir))
	require.NoError(t, err)
	_, err = recoverOn(ctx, good, h)
	require.ErrorIs(t, err, errDirInUse)
	require.NoError(t, unlock())

	report, err := recoverOn(ctx, good, h)
	require.NoError(t, err)
	require.Greater(t, uint64(report.FirstRevision), report.LastIndex+revisionStep-1)
	// The recovery does not run twice.
	_, err = recoverOn(ctx, good, h)
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "has ended already")
	require.ErrorContains(t, err, report.NewIncarnation)
	// The recovered data are still present.
	log, err := disk.ScanLog(original, disk.LogDir(report.Aside), mustLife(t, plan.Life), disk.LogEnd{}, nil)
	require.NoError(t, err)
	require.Equal(t, plan.LastIndex, log.Last)
}

// contents returns the content of each file, by its path.
func contents(files *disktest.FS) map[string]string {
	all := map[string]string{}
	for _, path := range files.Paths() {
		all[path] = string(files.Data(path))
	}
	return all
}

func mustLife(t testing.TB, s string) disk.Life {
	l, err := disk.ParseLife(s)
	require.NoError(t, err)
	return l
}

// A directory without entries has nothing to recover.
func TestNothingToRecover(t *testing.T) {
	c := clusterConfigs(t, 3)[0]
	c.Dir = "/data"
	files := disktest.New()
	b, err := newBackend(c, memoryHooks(files))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = planRecovery(context.Background(), c, memoryHooks(files))
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "nothing to recover")
}

// TestRecoverAtEachCrash stops a recovery before each of its operations, by a kill or a
// power loss, and starts again. The directory is the old or the new one, and a second
// call completes or refuses.
func TestRecoverAtEachCrash(t *testing.T) {
	t.Parallel()
	c, original := storedSurvivor(t)
	good := confirmed(t, c, memoryHooks(original))
	begins := func(f *disktest.FS, k int) RecoverReport {
		plan, err := planRecovery(context.Background(), c, memoryHooks(f))
		require.NoError(t, err, "operation %d", k)
		require.Equal(t, 1, plan.Keys)
		return plan
	}
	old := begins(original, 0)
	step := 7 // disk.TestReplaceAtEachCrash has each operation
	if slowProfile() {
		step = 1
	}
	for k, done := 1, false; !done; k += step {
		f := original.Kill()
		f.HaltAt(disktest.Nth(k, disktest.Any(disktest.Changes()...)))
		_, err := recoverOn(context.Background(), good, memoryHooks(f))
		done = err == nil
		if k%2 == 0 {
			f = f.Kill()
		} else {
			f = f.Crash(uint64(k))
		}
		plan := begins(f, k)
		if plan.Incarnation == old.Incarnation {
			require.Equal(t, old, plan, "a mix, operation %d", k)
			require.False(t, done)
			report, err := recoverOn(context.Background(), good, memoryHooks(f))
			require.NoError(t, err, "operation %d", k)
			plan = begins(f, k)
			require.Equal(t, report.NewIncarnation, plan.Incarnation)
			require.Equal(t, report.NewLife, plan.Life)
		}
		require.NotEqual(t, old.Life, plan.Life)
		require.Greater(t, plan.LastIndex, old.LastIndex+revisionStep-1)
		_, err = recoverOn(context.Background(), good, memoryHooks(f))
		require.ErrorContains(t, err, "has ended already", "operation %d", k)
		if k%4 == 1 || done {
			c.Listen, c.Peers = "127.0.0.1:0", nil
			require.NoError(t, startOn(t, c, f))
		}
	}
}

// A survivor that lost the end of its log reports the number of missing entries, and
// needs a second confirmation.
func TestRecoverShortSurvivor(t *testing.T) {
	parallel(t)
	c, files := storedSurvivor(t)
	ctx := context.Background()
	plan, err := planRecovery(ctx, c, memoryHooks(files))
	require.NoError(t, err)
	for _, path := range files.Paths() {
		if strings.Contains(path, "/log/") {
			files.Delete(path)
		}
	}
	short := confirmed(t, c, memoryHooks(files))
	_, err = recoverOn(ctx, short, memoryHooks(files))
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "AcceptShort")
	short.AcceptShort = true
	report, err := recoverOn(ctx, short, memoryHooks(files))
	require.NoError(t, err)
	require.Equal(t, plan.LastIndex-plan.SnapshotIndex, report.Missing)
	require.Contains(t, strings.Join(report.MayBeLost, "; "), "which this node had stored and lacks now")
	require.NoError(t, startOn(t, c, files))

	// Damage is refused, because the entries behind it are not known.
	c, files = storedSurvivor(t)
	good := confirmed(t, c, memoryHooks(files))
	for _, path := range files.Paths() {
		if strings.Contains(path, "/log/") {
			files.Flip(path, 8*200)
			break
		}
	}
	good.AcceptShort = true
	_, err = recoverOn(ctx, good, memoryHooks(files))
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "is damaged at offset")
}

// The report lists the writes that may be lost.
func TestRecoverReport(t *testing.T) {
	r := RecoverReport{Life: newLife.String(), LastIndex: 10, LastTerm: 3, SnapshotIndex: 10, SeenTerm: 3}
	r.Servers = []FormerServer{{ID: "a", Life: newLife.String(), Voter: true}}
	require.Empty(t, r.losses("a"), "a cluster of one node lost nothing")
	r.Servers = append(r.Servers, FormerServer{ID: "c", Voter: true}, FormerServer{ID: "b", Voter: true}, FormerServer{ID: "d"})
	r.SeenTerm, r.Missing, r.SnapshotIndex = 5, 2, 7
	text := strings.Join(r.losses("a"), "\n")
	for _, want := range []string{
		"behind entry 10 of term 3, which the voters b, c may have",
		"2 entries, up to entry 12",
		"the terms 4 to 5",
		"the entries from 8 to 10 may be such",
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "no vote")
	r.Servers[0].Voter = false
	require.Contains(t, strings.Join(r.losses("a"), "\n"), "this node had no vote")
}

// shortTiming is for tests in which a call waits for its whole budget.
var shortTiming = dcs.Timing{TTL: 6 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 2500 * time.Millisecond}

// recovered makes the node at the only voter of a new incarnation.
func (tc *testCluster) recovered(at int) RecoverReport {
	tc.t.Helper()
	report, err := Recover(testCtx(tc.t), confirmed(tc.t, tc.config[at], testHooks()))
	require.NoError(tc.t, err)
	return report
}

// startAsVoter starts a node and waits until it is a voter of a recovered or restored
// cluster.
func (tc *testCluster) startAsVoter(at int) {
	tc.t.Helper()
	tc.start(at)
	tc.becomesVoter(at)
}

// A cluster of three permanently loses two nodes. The third continues alone, with all
// its data, and others join it.
func TestRecoverFromALostQuorum(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, nil)
	const a, b, c = 0, 1, 2
	tc.leadBy(a)
	revs := tc.commits(b, 5, "k")
	lease, token := leased(t, tc.node[a], "lock", 5*time.Second)
	tc.settled()
	status := tc.node[a].Status()
	tc.kill(b)
	tc.kill(c)
	tc.stop(a)
	plan, err := PlanRecovery(testCtx(t), tc.config[a])
	require.NoError(t, err)
	require.Equal(t, []string{status.Incarnation, status.Life}, []string{plan.Incarnation, plan.Life})
	require.Equal(t, []any{6, 1, 5 * time.Second}, []any{plan.Keys, plan.Leases, plan.LongestTTL})
	require.Len(t, plan.Servers, 3)
	tc.wipe(b)
	report := tc.recovered(a)
	begun := dcs.Now()
	tc.start(a)
	require.Equal(t, a, tc.leader())
	e, err := tc.node[a].Get(testCtx(t), "lock")
	require.NoError(t, err)
	require.Equal(t, token, e.Created)
	tc.holds(revs)
	now := tc.node[a].Status()
	require.Equal(t, []string{report.NewIncarnation, report.NewLife}, []string{now.Incarnation, now.Life})
	require.Len(t, now.Voters, 1)

	// The session of the old incarnation is over, and its lock ends by itself.
	_, err = (&leaseHandle{b: &tc.node[a].frontend, id: lease.ID()}).Renew(testCtx(t), "lock")
	require.ErrorIs(t, err, dcs.ErrLost)
	tc.eventually(func() bool {
		_, err := tc.node[a].Get(testCtx(t), "lock")
		return err != nil
	}, "the lock stays taken")
	require.Greater(t, begun.Elapsed(), 5*time.Second, "a holder may still have been valid")
	_, next := leased(t, tc.node[a], "lock", 5*time.Second)
	require.Greater(t, next, report.FirstRevision)

	// An empty node joins. A node with the old data is refused until Rejoin allows it to
	// give them up.
	tc.startAsVoter(b)
	_, err = newBackend(tc.config[c], tc.hooks[c])
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "incarnation "+plan.Incarnation+" of the cluster has ended")
	require.ErrorContains(t, err, report.NewIncarnation)
	require.ErrorContains(t, err, "rejoin=true")
	tc.config[c].Rejoin = true
	tc.startAsVoter(c)
	require.Len(t, tc.node[a].Status().Voters, 3)
	later := tc.commits(c, 3, "later")
	tc.kill(a)
	tc.holds(revs)
	tc.holds(later)
}

// Two of the old nodes come back after the recovery. They are a majority of the old
// voters, and elect a leader if they do not reach the new incarnation. Then there are two
// clusters. A recovered node that reaches the old leader does not start.
func TestOldMajorityComesBack(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, nil)
	const a, b, c = 0, 1, 2
	revs := tc.commits(a, 3, "k")
	tc.settled()
	tc.stopAll()
	kept := t.TempDir()
	copyDir(t, tc.config[a].Dir, kept)
	tc.recovered(a)
	tc.start(b)
	tc.start(c)
	tc.commits(b, 1, "old")
	_, err := newBackend(tc.config[a], tc.hooks[a])
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "has not ended")
	require.ErrorContains(t, err, "rejoin=true")
	// The node returns to the cluster that has a leader.
	tc.config[a].Rejoin = true
	tc.start(a)
	tc.becomesVoter(a)
	tc.holds(revs)
	require.Equal(t, tc.node[b].Status().Incarnation, tc.node[a].Status().Incarnation)
	require.Len(t, tc.node[b].Status().Voters, 3)
}

// Only one node can be recovered, because the second one detects the first.
func TestTwoNodesAreRecovered(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, nil)
	tc.commits(0, 3, "k")
	tc.settled()
	tc.stopAll()
	first := tc.recovered(0)
	second := tc.recovered(1)
	require.NotEqual(t, first.NewIncarnation, second.NewIncarnation)
	tc.start(0)
	tc.leader()
	_, err := newBackend(tc.config[1], tc.hooks[1])
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "Only one node may be recovered")
	tc.config[1].Rejoin = true
	tc.startAsVoter(1)
	require.Equal(t, first.NewIncarnation, tc.node[1].Status().Incarnation)
}

// An old node that kept running detects the new incarnation, leaves the old one and
// reports that.
func TestOldNodeThatRuns(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) {
		c.Timing = shortTiming
	})
	const a, b, c = 0, 1, 2
	tc.leader()
	tc.commits(a, 3, "k")
	tc.settled()
	tc.kill(c)
	back := tc.isolate(b)
	tc.stop(a)
	report := tc.recovered(a)
	tc.start(a)
	tc.leader()
	back()
	tc.eventually(func() bool { return tc.node[b].Status().Health.State == Replaced }, "the node does not detect it")
	require.Nil(t, tc.node[b].node.member(), "Raft still runs")
	require.ErrorContains(t, tc.node[b].Status().Health.Err, report.NewIncarnation)
	_, err := tc.node[b].Get(testCtx(t), "k/0")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	require.ErrorContains(t, err, "has ended")
	_, err = tc.node[b].Wait(testCtx(t), "k", 1<<62)
	require.ErrorContains(t, err, "has ended")
}

// The data that a recovery replaced stay in the directory that the report names.
func TestRecoverKeepsTheOldData(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 1, nil)
	tc.commits(0, 3, "k")
	tc.stopAll()
	report := tc.recovered(0)
	for _, name := range []string{"identity.json", "mark.a", "mark.b", "vote.a", "vote.b", "log"} {
		_, err := os.Stat(filepath.Join(report.Aside, name))
		require.NoError(t, err)
	}
	again := tc.recovered(0)
	require.Greater(t, again.FirstRevision, report.FirstRevision)
	tc.start(0)
	tc.leader()
	require.Equal(t, again.NewIncarnation, tc.node[0].Status().Incarnation)
}
