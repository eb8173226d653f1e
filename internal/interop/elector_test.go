package interop

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/electorhttp"
)

// service is a service without a function. Each promotion in its cluster begins a
// timeline.
type service struct {
	timelines *atomic.Int64

	mu       sync.Mutex
	primary  bool
	timeline int64
}

func (s *service) set(primary bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.primary = primary
	return nil
}

func (s *service) Promote(context.Context, *elector.Leadership) error {
	s.mu.Lock()
	s.timeline = s.timelines.Add(1)
	s.mu.Unlock()
	return s.set(true)
}

func (s *service) Demote(context.Context, elector.Reason) error { return s.set(false) }
func (s *service) Fence(elector.Reason) error                   { return s.set(false) }

func (s *service) Report(context.Context) (cluster.Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := cluster.Member{Role: cluster.RoleReplica, State: cluster.StateRunning, Position: segment, Timeline: max(1, s.timeline)}
	if s.primary {
		m.Role = cluster.RolePrimary
	}
	return m, nil
}

// startElector starts an elector. With an API it serves that, and asks the others for
// their identity. Otherwise its address refuses connections.
func (s *server) startElector(t *testing.T, scope, name string, api bool, timelines *atomic.Int64) *elector.Elector {
	t.Helper()
	web := httptest.NewUnstartedServer(nil)
	c := elector.Config{Store: s.open(t), Scope: scope, Name: name, Service: &service{timelines: timelines}}
	c.Member = cluster.Member{APIURL: "http://" + web.Listener.Addr().String() + "/patroni", ConnURL: "postgres://127.0.0.1:5432/postgres"}
	if api {
		c.Asker = clusterhttp.New(nil)
	}
	e, err := elector.New(c)
	require.NoError(t, err)
	if api {
		web.Config.Handler = electorhttp.New(e, electorhttp.Options{Authorize: electorhttp.BasicAuth(apiUser, apiPassword)})
		web.Start()
		t.Cleanup(web.Close)
	} else {
		web.Listener.Close()
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return e
}

// pair starts two electors, of which a leads.
func (s *server) pair(t *testing.T, scope string, api bool) (a, b *elector.Elector) {
	t.Helper()
	var timelines atomic.Int64
	a = s.startElector(t, scope, "a", api, &timelines)
	eventually(t, "a leads", func() bool { return a.Leading() != nil })
	b = s.startElector(t, scope, "b", api, &timelines)
	eventually(t, "b is known", func() bool { return published(a, "b") })
	eventually(t, "there is a configuration", func() bool { return a.View().Stored(cluster.ConfigKey) })
	return a, b
}

func published(e *elector.Elector, name string) bool {
	m, ok := e.View().Member(name)
	return ok && m.State == cluster.StateRunning
}

func eventually(t *testing.T, text string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, limit, 10*time.Millisecond, text)
}

// An elector that runs obeys patronictl, over its API and over the store.
func TestElectorObeys(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, s *server) {
		t.Run("over the API", func(t *testing.T) { obeysOverTheAPI(t, s) })
		t.Run("over the store", func(t *testing.T) { obeysOverTheStore(t, s) })
	})
}

func obeysOverTheAPI(t *testing.T, s *server) {
	const scope = "api"
	a, b := s.pair(t, scope, true)
	ctl := s.patroni(t, scope, "x")

	require.Contains(t, ctl.ctl(t, "pause", scope, "--wait"), "Success: cluster management is paused")
	require.True(t, a.Status().Paused && b.Status().Paused, "patronictl waits until every member has seen the pause")
	require.Contains(t, ctl.ctl(t, "list", scope), "Maintenance mode: on")
	require.Contains(t, ctl.ctl(t, "resume", scope, "--wait"), "Success: cluster management is resumed")
	require.False(t, a.Status().Paused || b.Status().Paused)

	eventually(t, "a leads with its lock", func() bool { v := a.View(); return a.Leading() != nil && v.Leader != nil && v.Leader.Name == "a" })
	require.Contains(t, ctl.ctl(t, "switchover", scope, "--leader", "a", "--candidate", "b", "--force"), "the candidate leads")
	require.NotNil(t, b.Leading())
	require.Nil(t, a.Leading())
	eventually(t, "b has published its timeline", func() bool { m, _ := b.View().Member("b"); return m.Timeline == 2 })
	require.JSONEq(t, `[
		{"Cluster":"api","Member":"a","Host":"127.0.0.1:5432","Role":"Replica","State":"running","TL":1,"Lag in MB":0},
		{"Cluster":"api","Member":"b","Host":"127.0.0.1:5432","Role":"Leader","State":"running","TL":2}
	]`, ctl.ctl(t, "list", scope, "-f", "json"))
	eventually(t, "the change of the leader is in the history", func() bool { return len(b.View().History) == 1 })
	line := b.View().History[0]
	require.WithinDuration(t, time.Now(), parseTime(t, line.Time), limit)
	require.JSONEq(t, `[{"TL":1,"LSN":16777216,"Reason":"switchover from \"a\"","Timestamp":"`+line.Time+`","New Leader":"b"}]`, ctl.ctl(t, "history", scope, "-f", "json"))

	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	require.Contains(t, ctl.ctl(t, "switchover", scope, "--leader", "b", "--candidate", "a", "--force", "--scheduled", at.Format(time.RFC3339)), "the switchover is scheduled")
	eventually(t, "the request is stored", func() bool { f := b.View().Failover; return f != nil && f.At.Equal(at) && f.Candidate == "a" })
	require.NotNil(t, b.Leading())
	require.Contains(t, ctl.ctl(t, "list", scope), "Switchover scheduled at: "+at.Format("2006-01-02T15:04:05+00:00"))

	require.Contains(t, ctl.ctl(t, "flush", scope, "switchover", "--force"), `Success: {"result":"the switchover is cancelled"}`)
	eventually(t, "the request is cleared", func() bool { return a.View().Failover == nil && b.View().Failover == nil })
	require.NotNil(t, b.Leading())
	require.Contains(t, ctl.ctl(t, "flush", scope, "switchover", "--force"), "No pending scheduled switchover")

	// A request without the password is refused.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, apiURL(t, b, "b")+"/config", http.NoBody)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	answer.Body.Close()
	require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
}

func parseTime(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return at
}

// apiURL returns the address of a member's API.
func apiURL(t *testing.T, e *elector.Elector, name string) string {
	t.Helper()
	m, ok := e.View().Member(name)
	require.True(t, ok)
	return m.APIURL[:len(m.APIURL)-len("/patroni")]
}

// The API of no member answers, so that patronictl and Patroni's classes write the key
// failover and the configuration.
func obeysOverTheStore(t *testing.T, s *server) {
	const scope = "store"
	a, b := s.pair(t, scope, false)
	ctl := s.patroni(t, scope, "p")
	p := ctl.member(t)
	require.True(t, p.do("set_config_value", `{"pause": true}`))
	eventually(t, "paused", func() bool { return a.Status().Paused && b.Status().Paused })
	require.True(t, p.do("set_config_value", `{}`))
	eventually(t, "resumed", func() bool { return !a.Status().Paused && !b.Status().Paused })

	output, _ := ctl.run(t, "switchover", scope, "--leader", "a", "--candidate", "b", "--force")
	require.Contains(t, output, "Could not switchover using Patroni api, falling back to DCS")
	eventually(t, "b leads", func() bool { return b.Leading() != nil && a.Leading() == nil })
	eventually(t, "the request is cleared", func() bool { return b.View().Failover == nil })
	require.True(t, p.do("manual_failover", "x", "a", nil))
	eventually(t, "a request of another leader is cleared", func() bool { return p.cluster().Failover == nil })
	require.NotNil(t, b.Leading())
}
