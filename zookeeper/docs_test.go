package zookeeper

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// docs/operations.md tells timings that work, with ZooKeeper's default limits
// and with the suite's servers'.
func TestPagesTellWhatIs(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	require.Contains(t, string(page), "TTL 35 s, LoopWait 5 s, RetryTimeout 14 s with `syncLimit=5`")
	timing := dcs.Timing{TTL: 35 * time.Second, LoopWait: 5 * time.Second, RetryTimeout: 14 * time.Second}
	require.NoError(t, timing.Validate(Config{}.limits().caps()))
	require.Equal(t, dcs.Timing{TTL: 8 * time.Second, LoopWait: time.Second, RetryTimeout: 3500 * time.Millisecond}, suiteTiming)
	require.Contains(t, string(page), "8 s: LoopWait 1 s, RetryTimeout 3.5 s with `tickTime=100 syncLimit=8 maxSessionTimeout=60000`")
}
