package elector

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// goroutines counts those of the electors.
func goroutines() (n int) {
	buf := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "/elector.(*Elector).") || strings.Contains(stack, "/elector.(*fenceTimer).") {
			n++
		}
	}
	return n
}

// An idle elector has three goroutines, and sends at most two requests a LoopWait in
// addition to the watch.
func TestIdleCost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.pair()
		pass(time.Minute)
		if n := goroutines(); n == 0 || n > 2*3 {
			t.Errorf("two electors have %d goroutines", n)
		}
		for _, name := range []string{"a", "b"} {
			m := memstore.Match{Client: name, Op: memstore.OpAll &^ memstore.OpWatch}
			before := w.server.Requests(m)
			const loops = 30
			pass(loops * 10 * time.Second)
			if n := w.server.Requests(m) - before; n > 2*loops {
				t.Errorf("%s: %d requests in %d LoopWaits", name, n, loops)
			}
		}
	})
}

// many returns the number of electors of a test of many: whole in the slow profile.
func many(whole int) int {
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		return whole
	}
	return whole / 4
}

// A thousand electors on one Store, each of which leads, use at most 64 MiB. The race
// detector adds to each allocation and stack, so that memory is not bounded with it, and
// its runtime has failed with many goroutines that end at once.
func TestManyElectorsOnOneStore(t *testing.T) {
	electors := many(1000)
	limit := uint64(electors) * (64 << 20) / 1000
	if raceDetector {
		electors, limit = 50, 64<<20
	}
	bubble.Test(t, func(t *testing.T) {
		store, err := dcs.New(memstore.NewServer(memstore.Options{}).Open(memstore.ClientOptions{Slots: 64}), dcs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		used := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc + m.StackInuse
		}
		before := used()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		list := make([]*Elector, electors)
		for i := range list {
			e, err := New(Config{Store: store, Scope: fmt.Sprintf("s%d", i), Name: "a", Service: &runner{run: func(ctx context.Context, _ *Leadership) error { <-ctx.Done(); return nil }}, Exit: func(Reason) {}})
			if err != nil {
				t.Fatal(err)
			}
			list[i] = e
			all.Go(func() { _ = e.Run(ctx) })
		}
		pass(time.Minute)
		for _, e := range list {
			if e.Leading() == nil {
				t.Fatalf("%s does not lead: %v", e.c.Scope, e.Status().Refusal)
			}
		}
		if n := used() - before; n > limit {
			t.Errorf("%d electors use %d KiB, at most %d KiB", electors, n>>10, limit>>10)
		} else {
			t.Logf("%d KiB", n>>10)
		}
		cancel()
		all.Wait()
		_ = store.Close()
	})
}

// Of 200 electors whose leader is cut off one wins, and each of the others makes one
// attempt at most.
func TestHerd(t *testing.T) {
	electors := many(200)
	inWorld(t, func(t *testing.T, w *world) {
		first := w.start("m0")
		w.leads(first)
		for i := 1; i < electors; i++ {
			w.start(fmt.Sprintf("m%d", i))
		}
		pass(10 * time.Second)
		w.server.Inject(memstore.Match{Client: "m0"}, memstore.Hang())
		attempts := w.server.Inject(memstore.Match{Op: memstore.OpCommit, Key: cluster.Key(scope, cluster.LeaderKey)}, memstore.Delay(10*time.Millisecond))
		other := memstore.Match{Op: memstore.OpAll &^ (memstore.OpWatch | memstore.OpRenew)}
		before := w.server.Requests(other)
		var leader *member
		w.wait(time.Minute, "another leader", func() bool {
			for _, m := range w.members {
				if m != first && m.e.Leading() != nil {
					leader = m
				}
			}
			return leader != nil
		})
		pass(10 * time.Second)
		promotes := 0
		for _, m := range w.members {
			n, _, _ := m.svc.calls()
			promotes += n
		}
		if promotes != 2 {
			t.Errorf("%d promotions", promotes-1)
		}
		commits, requests := attempts.Hits(), w.server.Requests(other)-before
		t.Logf("%d commits on the lock, %d requests without the watch and the renewals", commits, requests)
		if commits > electors+10 || requests > 2*electors {
			t.Error("more than one attempt of each elector")
		}
	})
}

// A hand-over costs three commits, Demote and Promote: the acceptance, the release and
// the acquisition.
func TestSwitchoverCost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.pair()
		pass(time.Minute)
		const commit = 100 * time.Millisecond // nothing else takes time
		w.server.Inject(memstore.Match{Op: memstore.OpCommit}, memstore.Delay(commit))
		var took time.Duration
		begin := time.Now()
		b.svc.do(func() { b.svc.onPromote = func(context.Context) error { took = time.Since(begin); return nil } })
		if err := a.e.Switchover(t.Context(), Request{Candidate: "b"}); err != nil {
			t.Fatal(err)
		}
		if took != 3*commit {
			t.Errorf("Promote was called after the time of %v commits", took.Seconds()/commit.Seconds())
		}
		if _, demotes, _ := a.svc.calls(); demotes != 1 || b.svc.promotes != 1 {
			t.Errorf("%d demotions, %d promotions", demotes, b.svc.promotes)
		}
	})
}
