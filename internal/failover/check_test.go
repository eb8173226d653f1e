//go:build linux

package failover

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	a, b := &process{name: "a"}, &process{name: "b"}
	at := func(m *process, at int64, event string, token uint64) moment {
		e := moment{member: m}
		e.Event, e.Token, e.At = event, token, at
		return e
	}
	for name, test := range map[string]struct {
		events  []moment
		stopped []interval
		want    string
	}{
		"one after the other": {events: []moment{at(a, 1, promoted, 5), at(a, 2, acted, 5), at(a, 3, demoted, 5), at(b, 4, promoted, 6), at(b, 5, acted, 6)}},
		"two at once":         {events: []moment{at(a, 1, promoted, 5), at(b, 2, promoted, 6), at(a, 3, demoted, 5)}, want: "while member a was primary"},
		"killed":              {events: []moment{at(a, 1, promoted, 5), at(b, 3, promoted, 6)}, stopped: []interval{{a, 2, 0}}},
		"stopped":             {events: []moment{at(a, 1, promoted, 5), at(b, 3, promoted, 6), at(a, 5, demoted, 5)}, stopped: []interval{{a, 2, 4}}},
		"stopped too late":    {events: []moment{at(a, 1, promoted, 5), at(b, 3, promoted, 6), at(a, 6, demoted, 5)}, stopped: []interval{{a, 4, 5}}, want: "while member a was primary"},
		"an act that is stale": {
			events:  []moment{at(a, 1, promoted, 5), at(b, 3, promoted, 6), at(a, 5, acted, 5), at(a, 6, demoted, 5)},
			stopped: []interval{{a, 2, 4}}, want: "acted with token 5",
		},
		"a token that falls": {events: []moment{at(a, 1, promoted, 5), at(a, 2, demoted, 5), at(b, 3, promoted, 5)}, want: "promoted with token 5"},
	} {
		t.Run(name, func(t *testing.T) {
			_, faults := check(test.events, test.stopped)
			if test.want == "" {
				require.Empty(t, faults)
			} else {
				require.Len(t, faults, 1)
				require.Contains(t, faults[0], test.want)
			}
		})
	}
}
