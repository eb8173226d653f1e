package etcd3

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// docs/operations.md tells the watch's times as they are, and a timing that
// works.
func TestOperationsPageTellsTheWatch(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	times := func(budget time.Duration) (every, limit time.Duration) {
		var w watcher
		w.init(&Backend{c: Config{Timing: dcs.Timing{RetryTimeout: budget}}})
		return w.every, w.limit
	}
	long, far := times(10 * time.Second)
	short, near := times(suiteTiming.RetryTimeout)
	require.Contains(t, string(page), fmt.Sprintf("every | min(2.5 s, R/4), and left after as long again | %g s | %d ms |", long.Seconds(), short.Milliseconds()))
	require.Contains(t, string(page), fmt.Sprintf("| min(500 ms, R/6), once another answer named a later revision | %d ms | %d ms |", far.Milliseconds(), near.Milliseconds()))
	require.Contains(t, string(page), fmt.Sprintf("LoopWait %v, RetryTimeout %g s |", "500 ms", suiteTiming.RetryTimeout.Seconds()))
	require.NoError(t, dcs.Timing{TTL: 8 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 3 * time.Second}.Validate(caps))
}
