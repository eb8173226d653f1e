package bubble

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goroutines that wake at the same moment look at timers that are due. With more than one
// processor the race detector ends this program.
func TestTimersThatAreDueAtOnce(t *testing.T) {
	processors := runtime.GOMAXPROCS(0)
	if processors < 2 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
		processors = 2
	}
	for range 1000 {
		Test(t, lookAtTimers)
	}
	require.Equal(t, processors, runtime.GOMAXPROCS(0))
}

func lookAtTimers(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for range 8 {
		all.Go(func() {
			wake := time.NewTimer(time.Second)
			timers := make([]*time.Timer, 100)
			for i := range timers {
				timers[i] = time.NewTimer(time.Second)
			}
			<-wake.C
			for _, timer := range timers {
				select {
				case <-timer.C:
				default:
					t.Error("a timer that is due did not fire")
				}
			}
		})
	}
}

func TestProcessorsWhileBubblesRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	want := 3
	if raceDetector {
		want = 1
	}
	Test(t, func(t *testing.T) { require.Equal(t, want, runtime.GOMAXPROCS(0)) })
	require.Equal(t, 3, runtime.GOMAXPROCS(0))

	done := oneProcessor()
	oneProcessor()()
	require.Equal(t, 1, runtime.GOMAXPROCS(0), "another bubble has not ended")
	done()
	require.Equal(t, 3, runtime.GOMAXPROCS(0))
}
