package dcs

import (
	"math"
	"math/big"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// suspend replaces the boot clock by one that tests control. sleep suspends the
// machine. Up to jitter passes between any two readings of clocks.
func suspend(t *testing.T, jitter time.Duration) (sleep func(time.Duration)) {
	t.Helper()
	var slept atomic.Int64
	old := bootClock
	bootClock = func() time.Duration {
		if jitter > 0 {
			time.Sleep(rand.N(jitter))
			defer func() { time.Sleep(rand.N(jitter)) }()
		}
		return bootAtStart + time.Since(monoAtStart) + time.Duration(slept.Load())
	}
	t.Cleanup(func() { bootClock = old })
	return func(d time.Duration) { slept.Add(int64(d)) }
}

func TestInstantCountsSleep(t *testing.T) {
	sleep := suspend(t, 0)
	bubble.Test(t, func(t *testing.T) {
		before := Now()
		time.Sleep(3 * time.Second)
		sleep(time.Hour)
		if d := before.Elapsed(); d != time.Hour+3*time.Second {
			t.Errorf("elapsed %v over 3s awake and 1h asleep", d)
		}
		after := Now()
		if d := after.Sub(before); d != time.Hour+3*time.Second || !before.Before(after) || after.Before(before) {
			t.Errorf("the instants lie %v apart", d)
		}
		deadline := Deadline(before, 30*time.Second)
		if deadline.Elapsed() < 0 {
			t.Error("a deadline that passed in suspend is still ahead")
		}
	})
}

// An elapsed time is never shorter than the time that passed, however far apart the
// readings of the two clocks are and however long the machine was suspended.
func TestInstantElapsedIsNeverShorter(t *testing.T) {
	const jitter = 2 * time.Millisecond
	sleep := suspend(t, jitter)
	bubble.Test(t, func(t *testing.T) {
		for range 5000 {
			i := Now()
			returned := time.Now()
			awake, asleep := rand.N(10*time.Second), rand.N(10*time.Second)*time.Duration(rand.N(2))
			time.Sleep(awake)
			sleep(asleep)
			if rand.N(2) == 0 {
				i = i.Add(-awake).Add(awake)
			}
			passed := time.Since(returned) + asleep
			if d := i.Elapsed(); d < passed || d > passed+4*jitter {
				t.Fatalf("elapsed %v when %v had passed, %v of it asleep", d, passed, asleep)
			}
		}
	})
}

// The same on the machine's own clocks, which no test can stop.
func TestInstantOnTheRealClocks(t *testing.T) {
	last := time.Duration(0)
	begin, control := Now(), time.Now()
	for range 10_000 {
		passed := time.Since(control)
		d := begin.Elapsed()
		if d < passed {
			t.Fatalf("elapsed %v, of which %v were measured before it was asked", d, passed)
		}
		last = max(last, d)
	}
	if again := begin.Elapsed(); again < last-time.Millisecond {
		t.Errorf("elapsed fell from %v to %v", last, again)
	}
}

// In a bubble only virtual time counts, no matter how long the test computes.
func TestInstantIsExactInABubble(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		begin := Now()
		deadline := begin.Add(time.Second)
		for range 20_000 { // some milliseconds of the machine's time
			if d := begin.Elapsed(); d != 0 {
				t.Fatalf("%v elapsed while time stood still", d)
			}
		}
		time.Sleep(time.Second - 1)
		if d := deadline.Elapsed(); d != -1 {
			t.Errorf("a nanosecond before the deadline %v had elapsed since", d)
		}
		if d := Now().Sub(begin); d != time.Second-1 {
			t.Errorf("the instants lie %v apart", d)
		}
	})
}

func TestInstantArithmetic(t *testing.T) {
	suspend(t, 0)
	bubble.Test(t, func(t *testing.T) {
		now, zero := Now(), Instant{}
		for _, d := range []time.Duration{0, 1, -1, time.Hour, -time.Hour} {
			if got := now.Add(d); got.Sub(now) != d || got.Elapsed() != -d || got.Before(now) != (d < 0) {
				t.Errorf("now + %v lies %v off, elapsed %v", d, got.Sub(now), got.Elapsed())
			}
		}
		for _, d := range []time.Duration{math.MaxInt64, math.MinInt64} {
			far := now.Add(d).Add(d / 2)
			if far.Before(now) != (d < 0) || (far.Elapsed() > 0) != (d < 0) {
				t.Errorf("now + %v is on the wrong side of now: elapsed %v", d, far.Elapsed())
			}
		}
		ends := []time.Duration{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64}
		for _, a := range ends {
			for _, b := range ends {
				exact := new(big.Int).Sub(big.NewInt(int64(a)), big.NewInt(int64(b)))
				want := a - b
				if !exact.IsInt64() {
					want = math.MaxInt64
					if exact.Sign() < 0 {
						want = math.MinInt64
					}
				}
				if got := minus(a, b); got != want {
					t.Errorf("%d - %d = %d, want %d", a, b, got, want)
				}
			}
		}
		if !zero.IsZero() || now.IsZero() || !zero.Before(now) || now.Before(zero) || zero.Before(zero) ||
			zero.Elapsed() != math.MaxInt64 || !zero.Add(math.MaxInt64).IsZero() || zero.Sub(zero) != 0 {
			t.Error("the zero Instant is not infinitely far in the past")
		}
		if !Deadline(zero, time.Hour).IsZero() {
			t.Error("a deadline counted from nothing lies ahead")
		}
	})
}

func BenchmarkNow(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = Now()
	}
}

func BenchmarkElapsed(b *testing.B) {
	i := Now()
	b.ReportAllocs()
	for b.Loop() {
		_ = i.Elapsed()
	}
}
