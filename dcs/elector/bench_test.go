package elector

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// turning returns a leader with three members, whose turns the caller makes.
func turning(tb testing.TB) *Elector {
	tb.Helper()
	server := memstore.NewServer(memstore.Options{})
	w := &world{server: server, end: make(chan struct{}), primary: map[*fake]bool{}}
	open := func(name string) *Elector {
		store, err := dcs.New(server.Open(memstore.ClientOptions{Name: name}), dcs.Options{})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = store.Close() })
		e, err := New(Config{Store: store, Scope: scope, Name: name, Service: &fake{w: w, name: name}})
		if err != nil {
			tb.Fatal(err)
		}
		return e
	}
	e := open("a")
	e.tasks.Go(e.watch)
	tb.Cleanup(e.endLife)
	for e.loop.state != Leading {
		e.turn()
		runtime.Gosched()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	for _, name := range []string{"b", "c"} {
		other := open(name)
		others.Go(func() { _ = other.Run(ctx) })
	}
	tb.Cleanup(func() {
		cancel()
		others.Wait()
	})
	for len(e.loop.view.Members) < 3 {
		e.turn()
		runtime.Gosched()
	}
	return e
}

// BenchmarkTurn measures the loop's own work of one turn.
func BenchmarkTurn(b *testing.B) {
	e := turning(b)
	b.ReportAllocs()
	for b.Loop() {
		e.turn()
	}
}

// The loop's own work takes at most 50 µs a turn. The median leaves out the turns in which
// the machine did something else.
func TestTurnCost(t *testing.T) {
	limit := 50 * time.Microsecond
	if raceDetector {
		limit *= 10
	}
	e := turning(t)
	took := make([]time.Duration, 501)
	for i := range took {
		began := time.Now()
		e.turn()
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > limit {
		t.Errorf("a turn takes %v, at most %v", median, limit)
	} else {
		t.Logf("a turn takes %v", median)
	}
}

// BenchmarkIdle measures the memory and the goroutines of 1,000 electors on one Store.
// Each leads a cluster of its own.
func BenchmarkIdle(b *testing.B) {
	const electors = 1000
	for b.Loop() {
		store, err := dcs.New(memstore.NewServer(memstore.Options{}).Open(memstore.ClientOptions{Slots: 64}), dcs.Options{})
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(b.Context())
		var all sync.WaitGroup
		var list []*Elector
		for i := range electors {
			e, err := New(Config{Store: store, Scope: fmt.Sprintf("s%d", i), Name: "a", Service: &runner{run: func(ctx context.Context, _ *Leadership) error { <-ctx.Done(); return nil }}, Exit: func(Reason) {}})
			if err != nil {
				b.Fatal(err)
			}
			list = append(list, e)
			all.Go(func() { _ = e.Run(ctx) })
		}
		limit := time.Now().Add(time.Minute)
		for leading := 0; leading < electors && time.Now().Before(limit); time.Sleep(100 * time.Millisecond) {
			leading = 0
			for _, e := range list {
				if e.Status().State == Leading {
					leading++
				}
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/electors/1024, "KiB/elector")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/electors, "goroutines/elector")
		cancel()
		all.Wait()
		_ = store.Close()
	}
}
