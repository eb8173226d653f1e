//go:build linux

package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/electorhttp"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

const (
	// memberFailsafe makes a member take part in failsafe mode. It is the directory of the
	// certificates.
	memberFailsafe = "HOLDFAST_FAILOVER_FAILSAFE"
	failsafeToken  = "the token that the members share"
)

// takePart configures a member for failsafe mode over TLS, if the environment says so.
// serve serves the API of its elector.
func takePart(c *elector.Config) (serve func(*elector.Elector), err error) {
	dir := os.Getenv(memberFailsafe)
	if dir == "" {
		return func(*elector.Elector) {}, nil
	}
	config, err := loadTLS(dir)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.Member.APIURL = "https://" + l.Addr().String()
	transport := &http.Transport{TLSClientConfig: config}
	c.Asker, c.Failsafe = clusterhttp.New(transport), electorhttp.NewFailsafeClient(transport, failsafeToken)
	return func(e *elector.Elector) {
		s := &http.Server{
			Handler:   electorhttp.New(e, electorhttp.Options{FailsafeToken: failsafeToken}),
			TLSConfig: config.Clone(), ReadHeaderTimeout: time.Second, ErrorLog: log.New(io.Discard, "", 0),
		}
		go func() { _ = s.ServeTLS(l, "", "") }() // ends with the process
	}, nil
}

// loadTLS returns the configuration of a process, as a client and as a server, with the
// certificates of an authority.
func loadTLS(dir string) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem")) //nolint:gosec // G304: the file that the test names
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca.pem has no certificate")
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem"))
	return &tls.Config{
		Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12,
		RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}, err
}

// safe is a store for groups in failsafe mode, with a client of their API.
type safe struct {
	t      *testing.T
	c      *testcluster.Cluster
	url    string
	dir    string // of the certificates
	store  *dcs.Store
	client *clusterhttp.Client
}

func newSafe(t *testing.T, c *testcluster.Cluster) *safe {
	t.Helper()
	s := &safe{t: t, c: c, url: storeURL(c, onRaft), dir: t.TempDir()}
	_, err := testcerts.NewAuthority(s.dir, nil)
	require.NoError(t, err)
	config, err := loadTLS(s.dir)
	require.NoError(t, err)
	s.client = clusterhttp.New(&http.Transport{TLSClientConfig: config})
	s.store, err = dcs.Open(t.Context(), s.url, dcs.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.store.Close() })
	return s
}

// start starts a group of three.
func (s *safe) start(scope string) *group {
	s.t.Helper()
	key := cluster.Key(scope, cluster.ConfigKey)
	_, err := s.store.Commit(s.t.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put(key, []byte(`{"failsafe_mode":true}`))}})
	require.NoError(s.t, err)
	return startGroup(s.t, s.url, scope, []string{memberFailsafe + "=" + s.dir}, "a", "b", "c")
}

// ready waits until the leader of a group would ask all members in an outage.
func (s *safe) ready(p *group) (leader *process, others []*process) {
	s.t.Helper()
	var err error
	for began := dcs.Now(); began.Elapsed() < limit; time.Sleep(10 * actEvery) {
		leader, others = p.settled() // another one may lead after a slow round
		if err = s.isReady(p, leader); err == nil {
			return leader, others
		}
	}
	s.t.Fatalf("%s: the group is not ready for an outage: %v", p.scope, err)
	return nil, nil
}

// isReady returns the reason why an outage would end the leadership.
func (s *safe) isReady(p *group, leader *process) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), timing.TTL)
	defer cancel()
	v, err := cluster.Read(ctx, s.store, p.scope)
	if err != nil {
		return err
	}
	urls := map[string]string{}
	for _, m := range v.Members {
		urls[m.Name] = m.APIURL
	}
	if len(urls) != len(p.members) || !maps.Equal(urls, v.Failsafe.Members) {
		return errors.New("the list does not have each member at its address")
	}
	for _, f := range cluster.Verify(ctx, v, cluster.Identity{}, s.client) {
		if f.Disqualifies() {
			return errors.New(f.String())
		}
	}
	var body struct {
		Failsafe struct {
			Ready bool `json:"ready"`
		} `json:"failsafe"`
	}
	if err = s.client.Exchange(ctx, urls[leader.name], "/patroni", "", nil, &body); err == nil && !body.Failsafe.Ready {
		err = errors.New("the list is not confirmed")
	}
	return err
}

// goesOn reports whether the leader acts until a time, and no other member is promoted.
// The machine may have taken the time to ask the members: then that is not judged.
func (s *safe) goesOn(p *group, leader *process, began, until int64) bool {
	s.t.Helper()
	for {
		for _, m := range p.members {
			m.poll(s.t)
			if e := m.state(); e.Event == promoted && e.At > began {
				s.t.Fatalf("%s: member %s was promoted in the outage", p.scope, m.name)
			}
		}
		require.NoError(s.t, leader.Err(), "%s: the leader has ended", p.scope)
		last := leader.events[len(leader.events)-1]
		if last.Event != acted {
			control := p.stall.sum()
			s.t.Logf("%s: %s after %v of the outage (and %v that the machine took, by the control): %s", p.scope, last.Event, time.Duration(last.At-began), control, last.Cause)
			require.Greater(s.t, control, askTime/2, "%s: the leader does not go on", p.scope)
			return false
		}
		if last.At >= until {
			return true
		}
		if clock() > until+int64(limit) {
			s.t.Fatalf("%s: the leader does not act", p.scope)
		}
		time.Sleep(actEvery)
	}
}

// askTime is the time in which all members must answer before the lock runs out.
var askTime = timing.TTL / 15

// round stops the store for longer than the lock lasts. All leaders go on. Then a member of
// two groups fails, and their leaders demote in time. The other leader takes its lock again
// when the store is back. It reports whether the machine was fast enough for that.
func (s *safe) round(stays, killed, stopped *group) bool {
	s.t.Helper()
	leader, _ := s.ready(stays)
	ending := map[*group]*process{}
	failing := map[*group]*process{}
	for _, p := range []*group{killed, stopped} {
		l, others := s.ready(p)
		ending[p], failing[p] = l, others[0]
	}
	for _, p := range []*group{stays, killed, stopped} {
		p.stall.reset()
	}
	leader.poll(s.t)
	token := leader.events[len(leader.events)-1].Token
	thaw := freezeAll(s.t, s.c)
	defer thaw()
	began := clock()
	outlasts := began + int64(timing.TTL*3/2)
	if !s.goesOn(stays, leader, began, outlasts) || !s.goesOn(killed, ending[killed], began, outlasts) || !s.goesOn(stopped, ending[stopped], began, outlasts) {
		return false
	}
	killed.stall.reset()
	stopped.stall.reset()
	from := map[*group]int64{} // a busy machine can take a second for each failure
	killed.end(failing[killed])
	defer killed.restart(failing[killed])
	from[killed] = clock()
	proceed, err := failing[stopped].Freeze()
	require.NoError(s.t, err)
	defer proceed()
	from[stopped] = clock()
	for p, m := range ending {
		e := p.until(m, "demotes when a member does not answer", is(demoted))
		took, bound, control := time.Duration(e.At-from[p]), timing.TTL-dcs.Margin(timing.TTL), p.stall.sum()
		s.t.Logf("%s: the leader was demoted %v after a member had failed, at most %v: %s", p.scope, took, bound, e.Cause)
		if took > bound+control {
			s.t.Errorf("%s: the leader was demoted after %v, at most %v (and %v that the machine took, by the control)", p.scope, took, bound, control)
		}
	}
	if !s.goesOn(stays, leader, began, clock()+int64(timing.TTL/2)) {
		return false
	}
	thaw()
	back := clock()
	for leader.events[len(leader.events)-1].Token <= token {
		require.Less(s.t, clock(), back+int64(limit), "the lock is not taken again")
		s.goesOn(stays, leader, began, clock())
	}
	s.t.Logf("stays: the lock was taken again %v after the store was back", time.Duration(clock()-back))
	return true
}

// F2, F3, F5, E7: in an outage of the store a leader goes on while all members accept it,
// and takes its lock again afterwards. One whose member is killed or stopped demotes in
// time. No two services are primary at one moment.
func TestFailsafe(t *testing.T) {
	t.Parallel()
	s := newSafe(t, testcluster.New(t, testcluster.Options{Kind: testcluster.Raft, Loopback: true, Election: election[testcluster.Raft]}))
	stays, killed, stopped := s.start("stays"), s.start("failsafe-killed"), s.start("failsafe-stopped")
	n := 1
	if slow {
		n = rounds()
	}
	for slowRounds := 0; n > 0; {
		if s.round(stays, killed, stopped) {
			n--
		} else if slowRounds++; slowRounds > 3 {
			t.Fatal("a leader that all members can accept has not gone on in 4 rounds")
		}
	}
	for _, p := range []*group{stays, killed, stopped} {
		p.settled() // the other leaders come after the time for which their members have accepted
		p.judge()
	}
}
