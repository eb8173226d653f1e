package remote

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// docs/operations.md tells the watch's times as they are.
func TestOperationsPageTellsTheWatch(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	times := func(budget time.Duration) (every, limit time.Duration) {
		var r Replica
		r.Init(Source{Budget: budget})
		return r.Every, r.Limit
	}
	long, far := times(10 * time.Second)
	short, near := times(1700 * time.Millisecond)
	require.Contains(t, string(page), fmt.Sprintf("every | min(2.5 s, R/4), and left after as long again | %g s | %d ms |", long.Seconds(), short.Milliseconds()))
	require.Contains(t, string(page), fmt.Sprintf("| min(500 ms, R/6), once another answer named a later revision | %d ms | %d ms |", far.Milliseconds(), near.Milliseconds()))
}
