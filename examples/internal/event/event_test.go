package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEmitWritesWholeStampedLines(t *testing.T) {
	var b bytes.Buffer
	l := NewLog(&b)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { l.Emit(Event{Event: Renewed, Member: "a", Token: 7}) })
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	require.Len(t, lines, 20)
	last := int64(0)
	for _, line := range lines {
		var e Event
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		require.GreaterOrEqual(t, e.Mono, last, "lines are in the order of their stamps")
		last = e.Mono
		_, err := time.Parse(time.RFC3339Nano, e.T)
		require.NoError(t, err)
	}
	require.NotContains(t, b.String(), "reason", "empty fields are left out")
}

func TestStampKeepsWhatIsSet(t *testing.T) {
	e := Stamp(Event{Mono: 5, T: "x"})
	require.Equal(t, int64(5), e.Mono)
	require.Equal(t, "x", e.T)
}

// A frozen leader reports its end after it was thawed: both stamps say when it
// was.
func TestStampOfAnEarlierMoment(t *testing.T) {
	e := Stamp(Event{Mono: Mono() - int64(time.Hour)})
	at, err := time.Parse(time.RFC3339Nano, e.T)
	require.NoError(t, err)
	require.InDelta(t, time.Hour, time.Since(at), float64(time.Minute))
}
