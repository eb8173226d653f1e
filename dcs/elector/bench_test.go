package elector

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// BenchmarkTurn measures the loop's own work of one turn, of a leader with three
// members.
func BenchmarkTurn(b *testing.B) {
	server := memstore.NewServer(memstore.Options{})
	w := &world{server: server, end: make(chan struct{}), primary: map[*fake]bool{}}
	open := func(name string) *Elector {
		store, err := dcs.New(server.Open(memstore.ClientOptions{Name: name}), dcs.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = store.Close() })
		e, err := New(Config{Store: store, Scope: scope, Name: name, Service: &fake{w: w, name: name}})
		if err != nil {
			b.Fatal(err)
		}
		return e
	}
	e := open("a")
	e.tasks.Go(e.watch)
	b.Cleanup(e.endLife)
	for e.loop.state != Leading {
		e.turn()
		runtime.Gosched()
	}
	ctx, cancel := context.WithCancel(b.Context())
	var others sync.WaitGroup
	for _, name := range []string{"b", "c"} {
		other := open(name)
		others.Go(func() { _ = other.Run(ctx) })
	}
	for len(e.loop.view.Members) < 3 {
		e.turn()
		runtime.Gosched()
	}
	b.ReportAllocs()
	for b.Loop() {
		e.turn()
	}
	b.StopTimer()
	cancel()
	others.Wait()
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
