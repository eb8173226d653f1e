package consul

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// fakeAgent answers with the answers of a test, and records its requests.
type fakeAgent struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // op, in the order of arrival
	urls  []string
	slow  map[string]time.Duration
	say   map[string]func(w http.ResponseWriter)
	// waits counts the blocking queries that serves has received.
	waits atomic.Int64
	// serve answers all requests if it is not nil, except for the reads on a new connection.
	serve func(w http.ResponseWriter, r *http.Request)
	// refusals has the times of the requests that were refused after refuse.
	refusals []time.Time
	// place holds the identity of the store. Other agents may share it.
	place *identityPlace
	// datacenters is the list of datacenters, the agent's own first. listed answers in
	// its place if it is not nil.
	datacenters []string
	listed      http.HandlerFunc
	// identities and lists count the reads of the identity and of the datacenters.
	identities, lists atomic.Int64
	// index is the X-Consul-Index of the answers.
	index atomic.Int64
}

// identityPlace holds the identity of a store; empty means none.
type identityPlace struct {
	mu sync.Mutex
	id string
}

// unstartedFake returns an agent that has no server yet.
func unstartedFake() *fakeAgent {
	f := &fakeAgent{say: map[string]func(http.ResponseWriter){}, slow: map[string]time.Duration{}, place: &identityPlace{}, datacenters: []string{"dc1"}}
	f.index.Store(7)
	return f
}

func newFake(t *testing.T) *fakeAgent {
	f := unstartedFake()
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAgent) addr() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/"+identityKey) {
		f.serveIdentity(w, r)
		return
	}
	if r.URL.Path == "/v1/catalog/datacenters" {
		f.serveDatacenters(w, r)
		return
	}
	op := "read"
	switch {
	case r.URL.Query().Has("keys") && r.URL.Query().Has("consistent"):
		op = "top"
	case strings.HasPrefix(r.URL.Path, "/v1/kv/"):
		op = "get"
	case strings.HasPrefix(r.URL.Path, "/v1/session/"):
		op = strings.Split(r.URL.Path, "/")[3]
	case strings.HasPrefix(r.URL.Path, "/v1/catalog/node/"):
		op = "node"
	}
	f.mu.Lock()
	f.asked = append(f.asked, op)
	f.urls = append(f.urls, r.URL.String())
	say, slow, serve := f.say[op], f.slow[op], f.serve
	f.mu.Unlock()
	if serve != nil {
		serve(w, r)
		return
	}
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("X-Consul-Index", strconv.FormatInt(f.index.Load(), 10))
	if say != nil {
		say(w)
		return
	}
	switch op {
	case "renew", "info":
		_ = json.NewEncoder(w).Encode([]map[string]any{{"ID": "s", "TTL": "9s"}})
	case "create":
		_ = json.NewEncoder(w).Encode(map[string]any{"ID": "s"})
	case "node":
		_, _ = w.Write([]byte("null"))
	case "destroy":
		_, _ = w.Write([]byte("true"))
	case "top", "get":
		_, _ = w.Write([]byte("[]"))
	default:
		_ = json.NewEncoder(w).Encode(map[string]any{"Results": []any{}})
	}
}

// serveIdentity answers the read of the identity at the beginning of each connection, and
// its creation before the first session.
func (f *fakeAgent) serveIdentity(w http.ResponseWriter, r *http.Request) {
	at := f.place
	at.mu.Lock()
	defer at.mu.Unlock()
	w.Header().Set("X-Consul-Index", "7")
	if r.Method == http.MethodPut {
		made := at.id == ""
		if made {
			value, _ := io.ReadAll(r.Body)
			at.id = string(value)
		}
		_ = json.NewEncoder(w).Encode(made)
		return
	}
	if r.URL.Query().Has("stale") {
		f.identities.Add(1) // the first read on a connection
	}
	if at.id == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode([]map[string]any{{"Key": identityKey, "Value": []byte(at.id), "ModifyIndex": 7}})
}

// serveDatacenters answers the read of the datacenters on a new connection.
func (f *fakeAgent) serveDatacenters(w http.ResponseWriter, r *http.Request) {
	f.lists.Add(1)
	f.mu.Lock()
	list, listed := f.datacenters, f.listed
	f.mu.Unlock()
	if listed != nil {
		listed(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(list)
}

func (f *fakeAgent) answer(op string, code int, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.say[op] = func(w http.ResponseWriter) { w.WriteHeader(code); _, _ = w.Write([]byte(body)) }
}

// heard returns the requests since the last call of heard, without those of the Pool.
func (f *fakeAgent) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.asked
	f.asked = nil
	return out
}

func fakeClient(t *testing.T, change func(*Config), agents ...*fakeAgent) *Backend {
	t.Helper()
	c := Config{Root: "t", MinTTL: time.Second, Timing: suiteTiming}
	for _, a := range agents {
		c.Endpoints = append(c.Endpoints, a.addr())
	}
	if change != nil {
		change(&c)
	}
	b, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// ejections collects the reasons for which agents were ejected.
type ejections struct {
	mu      sync.Mutex
	reasons []string
}

func (e *ejections) note(ev dcs.EndpointEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ev.Change == dcs.Ejected {
		e.reasons = append(e.reasons, ev.Reason)
	}
}

// hasty returns the reasons without those of agents that were silent for long, which happens
// on a busy machine. A call that its caller has ended is silent for a shorter time.
func (e *ejections) hasty() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	const long = 100 * time.Millisecond
	return slices.DeleteFunc(slices.Clone(e.reasons), func(reason string) bool {
		_, silence, _ := strings.Cut(reason, "no answer within ")
		d, err := time.ParseDuration(silence)
		return err == nil && d >= long
	})
}

// quiet returns a client whose Pool has made its first requests.
func quiet(t *testing.T, agents ...*fakeAgent) *Backend {
	b := fakeClient(t, nil, agents...)
	for _, a := range agents {
		require.Eventually(t, func() bool {
			c, err := b.connected(a.addr())
			return err == nil && !c.proven().IsZero()
		}, 5*time.Second, time.Millisecond)
		a.heard()
	}
	return b
}

// P2: if an endpoint has answered no consistent read yet, one is answered before the
// renewal is sent. After that the read of the last round is used.
func TestReadGoesBeforeTheFirstRenewal(t *testing.T) {
	a := newFake(t)
	b := quiet(t, a)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	c.proof = dcs.Instant{} // as after a switch
	l := &lease{b, "s", suiteTiming.TTL}
	_, err = l.confirm(t.Context(), c, nil)
	require.NoError(t, err)
	heard := a.heard()
	require.Equal(t, "top", heard[0], "the read must be sent first and alone")
	require.ElementsMatch(t, []string{"renew", "top"}, heard[1:])

	_, err = l.confirm(t.Context(), c, []string{"leader"})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"renew", "get"}, a.heard(), "both must be sent together")
}

// P2: From is at most a TTL after the sending of the read on which the renewal is based.
func TestFromRestsOnTheRead(t *testing.T) {
	a := newFake(t)
	b := quiet(t, a)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	c.mu.Lock()
	c.proof = dcs.Instant{}
	c.mu.Unlock()
	// The renewal is sent after one TTL has passed since the read.
	const slow = 100 * time.Millisecond
	l := &lease{b, "s", slow / 2}
	var once sync.Once
	var read dcs.Instant // not before the read was sent
	a.mu.Lock()
	a.slow["top"] = slow
	a.say["top"] = func(w http.ResponseWriter) {
		once.Do(func() { read = dcs.Now().Add(-slow) })
		_, _ = w.Write([]byte("[]"))
	}
	a.mu.Unlock()
	r, err := l.confirm(t.Context(), c, nil)
	require.NoError(t, err)
	require.False(t, read.Add(l.ttl).Before(r.From), "From is %v later than one TTL after the read", r.From.Sub(read.Add(l.ttl)))
}

// P2: a read that is older than a TTL is not used.
func TestOldReadIsReplaced(t *testing.T) {
	a := newFake(t)
	b := quiet(t, a)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	l := &lease{b, "s", suiteTiming.TTL}
	c.mu.Lock()
	c.proof = dcs.Now().Add(-suiteTiming.TTL)
	c.mu.Unlock()
	begin := dcs.Now()
	r, err := l.confirm(t.Context(), c, nil)
	require.NoError(t, err)
	require.Equal(t, "top", a.heard()[0], "a new read must be sent first")
	require.False(t, r.From.Before(begin))
}

// A renewal does not count if its read fails, although Consul confirmed it.
func TestRenewalWithoutAReadIsNone(t *testing.T) {
	a := newFake(t)
	b := quiet(t, a)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	a.answer("get", http.StatusInternalServerError, "No cluster leader")
	_, err = (&lease{b, "s", suiteTiming.TTL}).confirm(t.Context(), c, []string{"leader"})
	require.ErrorContains(t, err, "No cluster leader")
}

// A 404 counts as the loss of the session if the quorum does not know the session either.
// If the quorum knows it, the 404 blames the endpoint.
func TestGoneIsConfirmed(t *testing.T) {
	a := newFake(t)
	b := quiet(t, a)
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	l := &lease{b, "s", suiteTiming.TTL}
	a.answer("renew", http.StatusNotFound, "")
	_, err = l.confirm(t.Context(), c, nil)
	require.ErrorIs(t, err, errAlive)
	require.NotErrorIs(t, err, dcs.ErrLost)
	a.answer("info", http.StatusOK, "[]")
	_, err = l.confirm(t.Context(), c, nil)
	require.ErrorIs(t, err, dcs.ErrLost)
	a.answer("info", http.StatusInternalServerError, "No cluster leader")
	_, err = l.confirm(t.Context(), c, nil)
	require.NotErrorIs(t, err, dcs.ErrLost)
	require.Error(t, err)
}

// A redirect is not followed, because the token would be sent along.
func TestRedirectionsAreNotFollowed(t *testing.T) {
	elsewhere, a := newFake(t), newFake(t)
	b := quiet(t, a)
	a.mu.Lock()
	a.say["get"] = func(w http.ResponseWriter) {
		w.Header().Set("Location", elsewhere.URL+"/v1/kv/t/k")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := b.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.Empty(t, elsewhere.heard())
}

// Every request has the datacenter, namespace and partition of Config.
func TestPlacesArePassedThrough(t *testing.T) {
	a := newFake(t)
	b := fakeClient(t, func(c *Config) { c.Datacenter, c.Namespace, c.Partition, c.Node = "dc9", "ns9", "ap9", "n9" }, a)
	ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
	defer cancel()
	_, err := b.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	l, _, err := b.Grant(ctx, suiteTiming.TTL)
	require.NoError(t, err)
	_, err = l.Renew(ctx, "k")
	require.NoError(t, err)
	require.NoError(t, l.Revoke(ctx))
	a.mu.Lock()
	defer a.mu.Unlock()
	require.NotEmpty(t, a.urls)
	for _, u := range a.urls {
		for _, part := range []string{"dc=dc9", "ns=ns9", "partition=ap9"} {
			require.Contains(t, u, part)
		}
	}
}

// Every connection is closed with its client, including an idle one and one that was
// being dialled when the client was closed.
func TestConnectionsEndWithTheirClient(t *testing.T) {
	agent := newFake(t)
	b := fakeClient(t, nil, agent)
	c, err := b.connected(agent.addr())
	require.NoError(t, err)
	dial := c.calls.http.DialContext
	idle, err := dial(t.Context(), "tcp", agent.addr())
	require.NoError(t, err)
	ended, err := dial(t.Context(), "tcp", agent.addr())
	require.NoError(t, err)
	require.NoError(t, ended.Close())
	require.NoError(t, b.Close())
	_, err = idle.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	nc, err := net.Dial("tcp", agent.addr())
	require.NoError(t, err)
	_, err = c.sockets.add(nc)
	require.ErrorIs(t, err, dcs.ErrClosed)
	_, err = nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.Empty(t, c.sockets.open)
}
