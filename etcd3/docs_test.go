package etcd3

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// docs/operations.md tells the timing that works.
func TestOperationsPageTellsTheTiming(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	require.Contains(t, string(page), fmt.Sprintf("LoopWait %v, RetryTimeout %g s |", "500 ms", suiteTiming.RetryTimeout.Seconds()))
	require.NoError(t, dcs.Timing{TTL: 8 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 3 * time.Second}.Validate(caps))
}
