package consul

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// docs/operations.md tells a timing that works, and doc.go the rights that the
// suite's own clients get by with.
func TestPagesTellWhatIs(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	require.Contains(t, string(page), "TTL 12 s, LoopWait 2 s, RetryTimeout 5 s with `raft_multiplier = 1`")
	caps := Config{MinTTL: defaultMinTTL}.caps()
	require.NoError(t, dcs.Timing{TTL: 12 * time.Second, LoopWait: 2 * time.Second, RetryTimeout: 5 * time.Second}.Validate(caps))
	require.Equal(t, dcs.Timing{TTL: 11 * time.Second, LoopWait: time.Second, RetryTimeout: 5 * time.Second}, suiteTiming)
	require.Contains(t, string(page), "LoopWait 1 s, RetryTimeout 5 s")

	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	for _, rule := range strings.Split(strings.TrimSpace(testcluster.ConsulRules("holdfast-pg-main")), "\n") {
		rule = strings.ReplaceAll(rule, "holdfast/", "pg/main/")
		require.Contains(t, string(doc), rule)
	}
}
