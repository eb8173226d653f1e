package endpoint

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// docs/operations.md tells the defaults as they are.
func TestOperationsPageTellsTheDefaults(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	long, short := Options{Budget: 10 * time.Second}.withDefaults(), Options{Budget: 1700 * time.Millisecond}.withDefaults()
	for _, want := range []string{
		fmt.Sprintf("| one copy of a call, first %s rounds | R/6, at most %s; four times what is usual there if that is longer | %s | %s |", words[steadyRounds], spaced(maxAttemptFloor), spaced(long.AttemptFloor), spaced(short.AttemptFloor)),
		fmt.Sprintf("at least %v (%v for writes)", spaced(long.HedgeFloor), spaced(2*long.HedgeFloor)),
		fmt.Sprintf("%s at a time; one that the first copy overtakes uses up what %d calls earn", words[hedgeBurst], hedgeShare*uselessHedge),
		fmt.Sprintf("%s times its own time; another one is sent beside it", words[Patience]),
		fmt.Sprintf("%s faults in a row", words[strikesOut]),
		fmt.Sprintf("%s answers of the quorum in a row", words[provenBy]),
		fmt.Sprintf("R/10, within 100 ms and 1 s; up to %s times that while it fails | %v to %v | %v to %v |", words[maxPause],
			spaced(long.ProbeInterval), spaced(maxPause*long.ProbeInterval), spaced(short.ProbeInterval), spaced(maxPause*short.ProbeInterval)),
		fmt.Sprintf("the members are listed every | 3 R, and half of that more or less; soon after one is left out | %v | %v |", spaced(long.TopologyInterval), spaced(short.TopologyInterval)),
		fmt.Sprintf("at most %d a second and server list, after a burst of %d", dialsPerSecond, dialBurst),
	} {
		require.Contains(t, string(page), want)
	}
}

var words = map[int]string{2: "two", 3: "three", 5: "five", 10: "ten"}

// spaced is a duration as the page writes it.
func spaced(d time.Duration) string {
	if d < time.Second { // whole milliseconds
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%g s", d.Seconds())
}
