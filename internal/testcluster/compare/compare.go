// Package compare measures the sides of a benchmark in turns, such as Holdfast and the
// client of a vendor.
package compare

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Side is one of the alternatives that a benchmark compares. Once runs it once and
// returns the duration.
type Side struct {
	Name string
	Once func() time.Duration
}

// Timed returns a Side that measures the whole of f. It panics if f fails.
func Timed(name string, f func() error) Side {
	return Side{name, func() time.Duration {
		begin := time.Now()
		if err := f(); err != nil {
			panic(fmt.Sprintf("%s: %v", name, err))
		}
		return time.Since(begin)
	}}
}

// noisy is the relative difference between two runs of one side above which no ratio is
// reported.
const noisy = 0.15

// Versus runs the sides in turns and reports the quantile q of each, and the ratio of
// that of the first side to that of the slowest other side. The turns of a side form two
// halves. No ratio is reported if the halves of a side differ by more than 15 %.
func Versus(b *testing.B, q float64, turns, each int, sides ...Side) {
	b.Helper()
	took := make([][2][]time.Duration, len(sides))
	for t := range turns {
		for i := range sides {
			k := (i + t) % len(sides)
			for range each {
				took[k][t%2] = append(took[k][t%2], sides[k].Once())
			}
		}
	}
	b.ReportMetric(0, "ns/op") // hides the sum over all sides
	values, quiet := make([]float64, len(sides)), true
	for i, s := range sides {
		first, second := QuantileOf(took[i][0], q), QuantileOf(took[i][1], q)
		values[i] = QuantileOf(append(took[i][0], took[i][1]...), q)
		b.ReportMetric(values[i]/1e3, s.Name+"-µs")
		if off := first/second - 1; max(off, -off) > noisy {
			quiet = false
			b.Logf("no ratio: the halves of %s differ by %.0f %% (%.0f µs, %.0f µs)", s.Name, 100*max(off, -off), first/1e3, second/1e3)
		}
	}
	if quiet {
		b.ReportMetric(values[0]/slices.Max(values[1:]), "ratio")
	}
}

// QuantileOf returns the quantile q of d in nanoseconds.
func QuantileOf(d []time.Duration, q float64) float64 {
	d = slices.Clone(d)
	slices.Sort(d)
	return float64(d[min(int(q*float64(len(d))), len(d)-1)])
}

// Take acquires the lock key and returns a function that releases it. It panics if that
// fails.
func Take(ctx context.Context, s *dcs.Session, key string) func() {
	h, err := s.Acquire(ctx, key, []byte("x"))
	if err != nil {
		panic(err)
	}
	return func() {
		if err := h.Release(ctx); err != nil {
			panic(err)
		}
	}
}

// Handover measures how long after the release by client 0 client 1 gets the lock. take
// must acquire the lock for client i and return a function that releases it. wait is the
// time between the two calls of take and the release.
func Handover(wait time.Duration, take func(i int) func()) time.Duration {
	release := take(0)
	var got time.Time
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		second := take(1)
		got = time.Now()
		second()
	}()
	<-time.After(wait)
	begin := time.Now()
	release()
	done.Wait()
	return got.Sub(begin)
}

// Session returns a new Session of s.
func Session(b *testing.B, s *dcs.Store) *dcs.Session {
	b.Helper()
	session, err := s.NewSession(b.Context(), dcs.SessionOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return session
}

// Acquiring compares the acquisition of a lock by Holdfast with that by the vendor's
// client, which is reported as name. lock must acquire the vendor's lock and return a
// function that releases it.
func Acquiring(b *testing.B, s *dcs.Session, name string, lock func() func()) {
	b.Helper()
	timed := func(name string, take func() func()) Side {
		return Side{name, func() time.Duration {
			begin := time.Now()
			release := take()
			took := time.Since(begin)
			release()
			return took
		}}
	}
	ours, theirs := timed("acquire", func() func() { return Take(b.Context(), s, "lock") }), timed(name, lock)
	for range 50 { // warm-up
		ours.Once()
		theirs.Once()
	}
	Versus(b, 0.5, 20, 30, ours, theirs)
}

// HandingOver compares the hand-over of a lock by Holdfast with that by the vendor's
// client, which is reported as name, after short and long waits. rig must return two
// Stores, and a function that acquires the vendor's lock number n as one of two clients
// and returns a function that releases it.
func HandingOver(b *testing.B, name string, rig func(b *testing.B) (stores [2]*dcs.Store, lock func(client, n int) func())) {
	for _, wait := range []time.Duration{15 * time.Millisecond, 250 * time.Millisecond} {
		b.Run(wait.String(), func(b *testing.B) {
			stores, lock := rig(b)
			sessions := []*dcs.Session{Session(b, stores[0]), Session(b, stores[1])}
			n := 0
			mine := Side{"holdfast", func() time.Duration {
				n++
				return Handover(wait, func(i int) func() { return Take(b.Context(), sessions[i], fmt.Sprint("lock", n)) })
			}}
			theirs := Side{name, func() time.Duration {
				n++
				return Handover(wait, func(i int) func() { return lock(i, n) })
			}}
			mine.Once()
			theirs.Once()
			Versus(b, 0.5, 6, 4, mine, theirs)
		})
	}
}

// PutWhile runs all puts concurrently, 30 calls of each with a timeout of 3 s a call. It
// reports for each the number of failed calls, the slowest call, and when the last call
// failed.
func PutWhile(b *testing.B, puts map[string]func(ctx context.Context, n int) error) {
	b.Helper()
	var done sync.WaitGroup
	var mu sync.Mutex
	for name, put := range puts {
		done.Add(1)
		go func() {
			defer done.Done()
			failed, slowest, last, began := 0, time.Duration(0), time.Duration(0), time.Now()
			for n := range 30 {
				ctx, cancel := context.WithTimeout(b.Context(), 3*time.Second)
				begin := time.Now()
				err := put(ctx, n)
				cancel()
				slowest = max(slowest, time.Since(begin))
				if err != nil {
					failed++
					last = time.Since(began)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			b.ReportMetric(float64(failed), name+"-failed")
			b.ReportMetric(slowest.Seconds(), name+"-slowest-s")
			b.ReportMetric(last.Seconds(), name+"-last-failure-s")
		}()
	}
	done.Wait()
	b.ReportMetric(0, "ns/op")
}
