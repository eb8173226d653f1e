package conformance

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// took adds a sample to the control, as if the machine had stood still.
func took(d time.Duration) { machine.end(sample{due: time.Now(), delay: d, still: d}) }

func TestControlWidensBounds(t *testing.T) {
	for name, c := range map[string]struct {
		body    func(e *env)
		verdict verdict
	}{
		"within its bound": {func(e *env) { e.atMost(time.Millisecond, time.Millisecond, time.Now(), "a call") }, passed},
		"above its bound": {func(e *env) {
			begin := time.Now()
			e.atMost(time.Hour, time.Millisecond, begin, "a call")
		}, failed},
		"the machine took the difference": {func(e *env) {
			begin := time.Now()
			took(600 * time.Millisecond)
			e.atMost(500*time.Millisecond, time.Millisecond, begin, "a call")
		}, passed},
		"programs waited for a processor": {func(e *env) {
			begin := time.Now()
			for _, total := range []time.Duration{1000 * time.Hour, 1000*time.Hour + time.Second} {
				machine.end(sample{due: time.Now(), contended: total})
			}
			e.atMost(1100*time.Millisecond, 500*time.Millisecond, begin, "a call")
		}, passed},
		"they waited for more than its bound allows": {func(e *env) {
			begin := time.Now()
			for _, total := range []time.Duration{2000 * time.Hour, 2001 * time.Hour} {
				machine.end(sample{due: time.Now(), contended: total})
			}
			e.atMost(30*time.Minute, time.Minute, begin, "a call")
		}, failed},
		"the machine took it before": {func(e *env) {
			machine.end(sample{due: time.Now().Add(-3 * time.Hour), delay: 2 * time.Hour, still: 2 * time.Hour})
			e.atMost(time.Hour, time.Millisecond, time.Now(), "a call")
		}, failed},
		"a channel that closes late": {func(e *env) {
			done := e.start(func() { e.pass(60 * time.Millisecond) })
			took(600 * time.Millisecond)
			e.within(time.Millisecond, done, "a call")
		}, passed},
		"a channel that never closes": {func(e *env) {
			took(20 * time.Millisecond)
			e.within(time.Millisecond, make(chan struct{}), "a call")
		}, failed},
	} {
		t.Run(name, func(t *testing.T) {
			o := trial(t, false, c.body)
			require.Equal(t, c.verdict, o.verdict, "%v", o.failures)
			require.Len(t, o.latencies, 1)
			require.Equal(t, "a call", o.latencies[0].what)
		})
	}
}

// A case fails, with the figures, if the machine stood still for longer than a store's
// election, even if the case found nothing else.
func TestMachineTooSlow(t *testing.T) {
	o := trial(t, false, func(e *env) { took(e.stall() + time.Second) })
	require.Equal(t, failed, o.verdict)
	require.Contains(t, first(o.failures), "machine too slow: it stood still for 1.7s by the control; the store's own election takes 700ms")
}

// The control measures, so that a sample has made its hops and ended.
func TestControlRuns(t *testing.T) {
	var c control
	release := c.use()
	begin := time.Now()
	require.Eventually(t, func() bool { return len(c.between(begin, time.Now())) > 2 }, 10*time.Second, samplePause)
	release()
	release()
	require.Zero(t, c.users)
	for _, s := range c.between(begin, time.Now()) {
		require.Positive(t, s.delay)
		require.LessOrEqual(t, s.still, s.delay)
	}
}

// Of latencies with one name the report keeps the one closest to its bound.
func TestWorstLatencyIsReported(t *testing.T) {
	o := trial(t, false, func(e *env) {
		for _, d := range []time.Duration{time.Second, 3 * time.Second, 2 * time.Second} {
			e.measured(latency{"a call", d, 5 * time.Second, 0})
		}
	})
	require.Equal(t, []latency{{"a call", 3 * time.Second, 5 * time.Second, 0}}, o.latencies)
}

// The most time for which programs waited within a period is that of the worst period. A
// sample without the time does not count.
func TestMostContended(t *testing.T) {
	began := time.Now()
	var samples []sample
	for i, total := range []time.Duration{5, 0, 6, 7, 9, 0, 9, 10} {
		samples = append(samples, sample{due: began.Add(time.Duration(i) * time.Second), contended: total * time.Second})
	}
	for length, most := range map[time.Duration]time.Duration{
		-time.Second:    0,
		0:               0,
		time.Second:     2 * time.Second,
		2 * time.Second: 3 * time.Second,
		4 * time.Second: 4 * time.Second,
		time.Hour:       5 * time.Second,
	} {
		require.Equal(t, most, mostContended(samples, length), length)
	}
	require.Zero(t, mostContended(nil, time.Hour))
	require.Zero(t, mostContended(make([]sample, 3), time.Hour))
}

func TestPressureIsRead(t *testing.T) {
	require.Equal(t, 1234567*time.Microsecond, parsePressure([]byte("some avg10=0.20 avg60=28.66 avg300=56.67 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n")))
	for _, text := range []string{"", "full avg10=0.00 total=9\n", "some total=\n", "some total=99999999999999999999\n"} {
		require.Zero(t, parsePressure([]byte(text)), text)
	}
	if _, err := os.ReadFile(pressureFile); err == nil {
		require.Positive(t, contended())
	}
}

func FuzzPressure(f *testing.F) {
	f.Add([]byte("some avg10=0.20 avg60=28.66 avg300=56.67 total=1234567\n"))
	f.Fuzz(func(t *testing.T, text []byte) { require.GreaterOrEqual(t, parsePressure(text), time.Duration(0)) })
}
