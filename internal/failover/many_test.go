//go:build linux

package failover

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// Many electors on one Store have one watch of etcd.
func TestManyElectorsHaveOneWatch(t *testing.T) {
	t.Parallel()
	const electors = 50
	c := testcluster.New(t, testcluster.Options{Kind: testcluster.Etcd, Nodes: 1, Loopback: true})
	require.Zero(t, watchers(t, c))
	store, err := dcs.Open(t.Context(), "etcd3://"+c.Endpoints()[0]+"/many", dcs.Options{})
	require.NoError(t, err)
	defer store.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var leading atomic.Int32
	for i := range electors {
		config := elector.Config{Store: store, Scope: fmt.Sprintf("s%d", i), Name: "a", Exit: func(elector.Reason) {}}
		all.Go(func() {
			err := elector.Lead(ctx, config, func(ctx context.Context, _ *elector.Leadership) error {
				leading.Add(1)
				<-ctx.Done()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return leading.Load() == electors }, limit, 10*time.Millisecond)
	require.Equal(t, 1, watchers(t, c))
	cancel()
	all.Wait()
}

// watchers returns the number of watches that the server has.
func watchers(t *testing.T, c *testcluster.Cluster) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.Servers()[0].Direct()+"/metrics", http.NoBody)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "etcd_debugging_mvcc_watcher_total "); ok {
			var count int
			_, err := fmt.Sscan(n, &count)
			require.NoError(t, err)
			return count
		}
	}
	t.Fatal("the server does not report its watches")
	return 0
}
