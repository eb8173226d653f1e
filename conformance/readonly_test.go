package conformance

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// opening changes the Opening that h's OpenWith receives.
func (h Harness) opening(f func(o *Opening)) Harness {
	return h.changed(func(s Store) Store {
		open := s.OpenWith
		s.OpenWith = func(tb testing.TB, o Opening) (dcs.Backend, error) {
			f(&o)
			return open(tb, o)
		}
		return s
	})
}

// TestReaderIsHeldToAList runs the case of the reading client on harnesses that send
// requests with a name that the suite does not know, or that do not observe requests.
func TestReaderIsHeldToAList(t *testing.T) {
	c, ok := find("Member/ReadOnlyClientTouchesNothing")
	require.True(t, ok)
	sound := memHarness("memstore", memstore.Options{})
	unknown := sound.opening(func(o *Opening) {
		for i, f := range o.Faults {
			o.Faults[i].When = func(q Request) bool {
				if q.Op == "Wait" {
					q.Op = "Upsert"
				}
				return f.When(q)
			}
		}
	})
	blind := sound.opening(func(o *Opening) { o.Faults = nil })
	for want, h := range map[string]Harness{`requests "Upsert"`: unknown, "does not put Opening.Faults in force": blind} {
		o := runCase(t, h, c)
		require.Equal(t, failed, o.verdict, want)
		require.Contains(t, strings.Join(o.failures, "\n"), want)
	}
}
