package memstore

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// A random walk over the store's faults. Several clients have Sessions, Holds and bare
// leases. The store loses, delays, repeats and reorders their requests. A referee sees
// every event and knows the promises of docs/protocol.md.

var (
	walkSeed   = flag.Uint64("walk.seed", 0, "walk only this seed")
	walkFor    = flag.Duration("walk.for", 0, "go on with new seeds for so long (default 3s, with HOLDFAST_PROFILE=slow 10m)")
	walkRounds = flag.Int("walk.rounds", 0, "walk this many seeds, beginning with 1 or -walk.seed, however long that takes")
)

// walkStart returns the first seed, and whether the walk ends with it.
func walkStart(t *testing.T) (seed uint64, single bool) {
	seed = *walkSeed
	if env := os.Getenv("HOLDFAST_SEED"); env != "" && seed == 0 {
		n, err := strconv.ParseUint(env, 10, 64)
		if err != nil {
			t.Fatalf("HOLDFAST_SEED=%q: %v", env, err)
		}
		seed = n
	}
	switch {
	case *walkRounds > 0:
		return max(seed, 1), *walkRounds == 1
	case seed == 0:
		return rand.Uint64N(1 << 40), false
	}
	return seed, true
}

// walkEnds reports whether the walk ends after these rounds.
func walkEnds(start time.Time, rounds int) bool {
	if *walkRounds > 0 {
		return rounds >= *walkRounds
	}
	return time.Since(start) > walkLength()
}

// walkLength returns how long to walk.
func walkLength() time.Duration {
	switch {
	case *walkFor > 0:
		return *walkFor
	case os.Getenv("HOLDFAST_PROFILE") == "slow":
		return 10 * time.Minute
	}
	return 3 * time.Second
}

func TestWalk(t *testing.T) { walkSeeds(t, walk, (*tally).check) }

// walkSeeds walks seed after seed and fails with the first one that has faults. check
// checks the counts of all of them, if there were several.
func walkSeeds(t *testing.T, walk func(t *testing.T, seed uint64) ([]string, tally), check func(*tally, testing.TB)) {
	seed, single := walkStart(t)
	// One goroutine at a time is faster here, and makes the walk of a seed repeatable.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	start, rounds := time.Now(), 0
	var total tally
	for {
		faults, did := walk(t, seed)
		total.add(did)
		rounds++
		for _, f := range faults {
			t.Errorf("seed %d: %s", seed, f)
		}
		if len(faults) > 0 {
			t.Fatalf("repeat with: go test -race ./memstore -run %s$ -walk.seed=%d", t.Name(), seed)
		}
		if single || walkEnds(start, rounds) {
			break
		}
		seed++
	}
	took := time.Since(start)
	t.Logf("%d rounds, %d steps (%.0f a second), %v of virtual time: %s", rounds, total.steps, float64(total.steps)/took.Seconds(), total.virtual.Round(time.Second), &total)
	if !single {
		check(&total, t)
	}
}

// walk runs one round. Everything in it follows from seed.
func walk(t *testing.T, seed uint64) (faults []string, did tally) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(seed)
		for range 3 {
			w.join(dcs.Options{Observer: dcs.Observer{Renewal: w.ref.renewed}})
		}
		start := time.Now()
		w.run(w.injectFaults)
		w.ref.did.virtual = time.Since(start)
		faults, did = w.ref.faults, w.ref.did
	})
	return faults, did
}

// world is one round.
type world struct {
	seed   uint64
	rng    *rand.Rand
	s      *Server
	o      Options
	timing dcs.Timing
	ref    *referee
	actors []*actor
	stop   chan struct{}
}

var walkKeys = []string{"leader", "sync"}

func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	chance := func(p float64) bool { return rng.Float64() < p }
	w := &world{
		seed: seed, rng: rng, stop: make(chan struct{}),
		timing: dcs.Timing{TTL: 10 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 3 * time.Second},
		o: Options{
			NoRebind: chance(0.3), NoSelfExpiry: chance(0.2), LeasesRunOn: chance(0.3), Duplicating: chance(0.3), ModifiedOnly: chance(0.4),
			ExpiryFactor: float64(1 + rng.IntN(2)), Endpoints: 1 + rng.IntN(3),
			Latency: time.Duration(rng.IntN(3)) * 777 * time.Microsecond,
		},
	}
	w.s = NewServer(w.o)
	w.ref = newReferee(w.s, w.timing)
	return w
}

// join adds an actor, whose Store has the options o and the world's timing.
func (w *world) join(o dcs.Options) *actor {
	i := len(w.actors)
	b := w.s.Open(ClientOptions{
		Name: string(rune('a' + i)), Timing: w.timing, Slots: 1 + w.rng.IntN(3), Seed: w.seed*8 + uint64(i) + 1,
		AttemptTimeout: 400 * time.Millisecond, HedgeAfter: 150 * time.Millisecond,
	})
	o.Timing = w.timing
	store, err := dcs.New(b, o)
	if err != nil {
		panic(err)
	}
	a := newActor(w, b.ClientName(), store, w.rng.Uint64())
	w.actors = append(w.actors, a)
	return a
}

// run applies faults and takes steps, then ends the faults, then ends all actors. The
// referee checks each phase.
func (w *world) run(inject func()) {
	done := make(chan struct{})
	for _, a := range w.actors {
		go func() { a.live(60); done <- struct{}{} }()
	}
	nemesis := make(chan struct{})
	go func() { inject(); close(nemesis) }()
	watching := make(chan struct{})
	go func() { w.ref.watch(w.stop); close(watching) }()
	for range w.actors {
		<-done
	}
	close(w.stop)
	<-nemesis
	<-watching
	time.Sleep(4 * w.timing.TTL) // leases that are not renewed have ended
	w.ref.watchHolds()
	w.ref.orphans()
	w.abandonedLeases()
	for _, a := range w.actors {
		a.finish()
	}
	time.Sleep(time.Duration(w.o.ExpiryFactor)*w.timing.TTL + time.Second)
	w.actors[0].reachable()
	for _, a := range w.actors {
		if err := a.store.Close(); err != nil {
			w.ref.fault("Close: %v", err)
		}
	}
	w.ref.final()
}

// nemesis holds the faults in force.
type nemesis struct{ all, held []*Injection }

// add applies one more fault to a client.
func (n *nemesis) add(i *Injection) { n.all, n.held = append(n.all, i), append(n.held, i) }

// release delivers the held messages now, the last first.
func (n *nemesis) release() {
	for _, i := range slices.Backward(n.held) {
		i.Release()
	}
	n.held = nil
}

// injectAtRandom calls fault at random intervals of at most pause until the world stops,
// and then ends all faults.
func (w *world) injectAtRandom(pause int, fault func(*nemesis)) {
	var n nemesis
	for {
		select {
		case <-w.stop:
			w.recover(n.all)
			return
		case <-time.After(time.Duration(w.rng.IntN(pause)) * time.Millisecond):
		}
		w.ref.count(&w.ref.did.faults)
		fault(&n)
	}
}

// injectFaults injects faults at random times, each for a while.
func (w *world) injectFaults() {
	w.injectAtRandom(700, func(n *nemesis) {
		switch w.rng.IntN(40) {
		case 0:
			w.s.Down()
			w.pause(4000)
			w.s.Up()
		case 1:
			w.s.ReadOnly(true)
			w.pause(3000)
			w.s.ReadOnly(false)
		case 2:
			w.endSomeLease()
		case 3:
			w.takeAway(walkKeys[w.rng.IntN(len(walkKeys))])
		case 4, 5:
			w.loseMarkers()
		case 6:
			n.release()
		default:
			n.add(w.disturb())
		}
	})
}

// recover ends all faults and delivers the held messages.
func (w *world) recover(all []*Injection) {
	w.s.Up()
	w.s.ReadOnly(false)
	w.s.LimitTTL(0)
	for _, i := range all {
		i.Lift()
		i.Release()
	}
}

// abandonedLeases checks, on a store that has had no faults for long enough, that every
// live lease belongs to a session or an actor that goes on.
func (w *world) abandonedLeases() {
	known := map[dcs.LeaseID]bool{}
	for _, a := range w.actors {
		if a.session != nil && a.session.Err() == nil {
			known[a.session.Lease()] = true
		}
		if a.lease != nil {
			known[a.lease.ID()] = true
		}
	}
	for _, l := range w.s.Leases() {
		w.s.mu.Lock()
		over := w.s.root("default").leases[l.ID] == nil || w.s.root("default").leases[l.ID].over
		w.s.mu.Unlock()
		if !known[l.ID] && !over {
			w.ref.fault("lease %s outlives its session", l.ID)
		}
	}
}

func (w *world) pause(ms int) { time.Sleep(time.Duration(1+w.rng.IntN(ms)) * time.Millisecond) }

// disturb injects one fault for a few calls of a client.
func (w *world) disturb() *Injection {
	ms := time.Duration(1+w.rng.IntN(3000)) * time.Millisecond
	faults := [][]Fault{
		{DropReply()},
		{DropReply(), Reset()},
		{Hang()},
		{Hold()},
		{Hold()},
		{HoldReply()},
		{Delay(ms)},
		{DelayReply(ms)},
		{Repeat()},
		{Fail(errSome)},
		{Repeat(), DropReply()},
	}
	if w.o.Duplicating {
		faults = append(faults, []Fault{Duplicate(ms)}, []Fault{Duplicate(ms)}, []Fault{Duplicate(ms), Hold()})
	}
	ops := []Op{OpCommit, OpCommit, OpCommit | OpSettle, OpSettle, OpMark, OpWrites, OpRenew, OpRenew | OpGrant, OpRevoke, OpAll, OpWatch, OpRead}
	m := Match{Op: ops[w.rng.IntN(len(ops))]}
	if w.rng.IntN(3) > 0 {
		m.Client = w.actors[w.rng.IntN(len(w.actors))].name
	}
	if w.rng.IntN(3) == 0 {
		m.Endpoint = fmt.Sprintf("m%d", 1+w.rng.IntN(w.o.Endpoints))
	}
	return w.s.Inject(m, append(faults[w.rng.IntN(len(faults))], Times(1+w.rng.IntN(20)))...)
}

// endSomeLease ends a lease like an operator.
func (w *world) endSomeLease() {
	leases := w.s.Leases()
	if len(leases) == 0 {
		return
	}
	id := leases[w.rng.IntN(len(leases))].ID
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	tree := w.s.root("default")
	w.ref.exempt(id)
	for _, k := range tree.tree.Bound(id) {
		w.ref.taint(outside(dcs.Entry{Key: k}).Key)
	}
	tree.end(id)
}

// takeAway deletes a lock like an operator.
func (w *world) takeAway(key string) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.ref.taint(key)
	if _, err := w.s.root("default").commit(dcs.Txn{Then: []dcs.Write{dcs.Delete(key)}}); err != nil {
		panic(err)
	}
}

// loseMarkers ends the markers' lease. It must not happen during a request that is applied
// twice, because the result of the first time would then be lost, unless the clients
// expect that.
func (w *world) loseMarkers() {
	w.s.mu.Lock()
	for _, i := range w.s.faults.active {
		var p plan
		for _, v := range i.faults {
			v.apply(i, &p)
		}
		if p.twice && !w.o.Duplicating {
			w.s.mu.Unlock()
			return
		}
	}
	w.s.mu.Unlock()
	for _, e := range w.s.Entries("default") {
		if e.Key[0] == '.' {
			w.s.Delete("default", e.Key)
		}
	}
}

// reachable checks that a new leader can be elected when there are no faults.
func (a *actor) reachable() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*a.w.timing.TTL)
	defer cancel()
	s, err := a.store.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		a.w.ref.fault("on a healthy store: NewSession: %v", err)
		return
	}
	for _, k := range walkKeys {
		h, err := s.TryAcquire(ctx, k, []byte("last"))
		// A client that expects duplicates pays once for each lost marker.
		for n := 0; n < 10 && errors.Is(err, dcs.ErrUnavailable); n++ {
			time.Sleep(100 * time.Millisecond)
			h, err = s.TryAcquire(ctx, k, []byte("last"))
		}
		if err != nil {
			a.w.ref.fault("on a healthy store without other clients: TryAcquire %s: %v", k, err)
			continue
		}
		a.w.ref.acquired(k, h, 0, time.Now())
	}
	if err := s.Close(ctx); err != nil {
		a.w.ref.fault("on a healthy store: Close: %v", err)
	}
}
