package consul

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

func TestConfigNamesEveryFault(t *testing.T) {
	_, err := New(Config{
		Endpoints: []string{"http://h:8500", "h"}, Root: "a//b", LockDelay: time.Hour, MinTTL: -1, TokenFile: "/no/such",
		Timing: dcs.Timing{TTL: time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second},
	})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	for _, part := range []string{"without a scheme", "Root", "LockDelay", "MinTTL", "TokenFile", "RetryTimeout"} {
		require.ErrorContains(t, err, part)
	}
}

func TestNodeOfTheSessions(t *testing.T) {
	one, err := Config{Endpoints: []string{"h"}, Root: "pg/main"}.check()
	require.NoError(t, err)
	require.Empty(t, one.Node, "empty means the agent's own node")
	three, err := Config{Endpoints: []string{"h1", "h2", "h3"}, Root: "/pg/main_1/"}.check()
	require.NoError(t, err)
	require.Equal(t, "holdfast-pg--main-5f1", three.Node)
	require.Equal(t, []string{"h1:8500", "h2:8500", "h3:8500"}, three.Endpoints)
	own, err := Config{Endpoints: []string{"h"}, Root: "r", Node: "mine"}.check()
	require.NoError(t, err)
	require.Equal(t, "mine", own.Node)

	names := map[string]string{}
	for _, root := range []string{"pg/main", "pg-main", "pg--main", "pg/-main", "pg-/main", "PG/main", "pg/main/", "pg-2dmain", "pg.main", "pg/x2d"} {
		c, err := Config{Endpoints: []string{"h1", "h2"}, Root: root}.check()
		require.NoError(t, err)
		other, taken := names[strings.ToLower(c.Node)]
		require.False(t, taken && other != c.Root, "%s and %s share the node %s", other, c.Root, c.Node)
		names[strings.ToLower(c.Node)] = c.Root
	}
}

func TestURL(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(secret, []byte("t o\n"), 0o600))
	u, err := dcs.ParseURL("consul://h1:1,h2/pg/main?token_file=" + filepath.ToSlash(secret) + "&lock_delay=15s&checks=serfHealth,disk&dc=d&namespace=n&partition=p&node=x&tls=true")
	require.NoError(t, err)
	c, err := configFromURL(u, dcs.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"h1:1", "h2"}, c.Endpoints)
	require.Equal(t, "pg/main", c.Root)
	require.Equal(t, []any{"d", "n", "p", "x", 15 * time.Second}, []any{c.Datacenter, c.Namespace, c.Partition, c.Node, c.LockDelay})
	require.Equal(t, []string{"serfHealth", "disk"}, c.Checks)
	require.Equal(t, &dcs.TLSFiles{}, c.TLSFiles)
	b, err := New(c)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, "t o", b.token.current(), "the end of the line is not part of the token")

	for url, want := range map[string]string{
		"consul:///r":                        "no host",
		"consul://h":                         "no root",
		"consul://h/r?wait=perhaps":          "true or false",
		"consul://h/r?tls_cert=x":            "tls_key",
		"consul://h/r?lock_delay=soon":       "lock_delay",
		"consul://h/r?nosuch=1":              "nosuch",
		"consul://h/r?token_file=/no/such/x": "TokenFile",
	} {
		_, err := dcs.Open(t.Context(), url, dcs.Options{})
		require.ErrorIs(t, err, dcs.ErrInvalid, url)
		require.ErrorContains(t, err, want, url)
	}
}

// Each text of a Consul error becomes the failure in the table of errors.go. An error
// that the table does not list is unclear and blames the endpoint.
func TestMeanings(t *testing.T) {
	b := fakeClient(t, nil, newFake(t))
	c, err := b.connected("127.0.0.1:1")
	require.NoError(t, err)
	said := func(code int, body string) error {
		return &url.Error{Op: "Put", URL: "http://h/v1/txn", Err: &statusError{code: code, body: body}}
	}
	asks := func(code int, pause time.Duration) error { return &statusError{code, "busy", pause} }
	for name, test := range map[string]struct {
		err                   error
		left                  bool
		kind                  error
		refused, blame, final bool
		also                  backend.Failure
	}{
		"no leader":       {err: said(http.StatusInternalServerError, "No cluster leader"), left: true, refused: true, also: backend.Failure{Doubt: true}},
		"not the leader":  {err: said(http.StatusInternalServerError, "rpc error making call: node is not the leader"), left: true, refused: true, also: backend.Failure{Doubt: true}},
		"leadership lost": {err: said(http.StatusInternalServerError, "leadership lost while committing log"), left: true, blame: true},
		"rpc error":       {err: said(http.StatusInternalServerError, "rpc error making call: EOF"), left: true, blame: true},
		"too often":       {err: said(http.StatusTooManyRequests, "Your IP is issuing too many concurrent connections"), left: true, refused: true, also: backend.Failure{Busy: time.Second}},
		"too many":        {err: said(http.StatusTooManyRequests, ""), left: true, refused: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"a proxy":         {err: said(http.StatusServiceUnavailable, "busy"), left: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"a long pause":    {err: asks(http.StatusServiceUnavailable, 3*time.Second), left: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: 3 * time.Second}},
		"too many, later": {err: asks(http.StatusTooManyRequests, 3*time.Second), left: true, refused: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: 3 * time.Second}},
		"a short pause":   {err: asks(http.StatusServiceUnavailable, time.Millisecond), left: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"rate limit":      {err: said(http.StatusServiceUnavailable, "rate limit exceeded, try again later or against a different server"), left: true, refused: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"too large":       {err: said(http.StatusRequestEntityTooLarge, "Request body(600000 bytes) too large"), left: true, kind: dcs.ErrInvalid, refused: true, final: true},
		"denied":          {err: said(http.StatusForbidden, "Permission denied"), left: true, kind: dcs.ErrUnauthorized, refused: true, also: backend.Failure{Unconfirmed: true}},
		"no such token":   {err: said(http.StatusForbidden, "ACL not found"), left: true, kind: dcs.ErrUnauthorized, refused: true, also: backend.Failure{Unconfirmed: true}},
		"never left":      {err: errors.New("dial tcp: connection refused"), refused: true, blame: true, also: backend.Failure{Unreachable: true}},
		"cut":             {err: errors.New("EOF"), left: true, blame: true},
		"ours is refused": {err: errors.New("remote error: tls: expired certificate"), left: true, kind: dcs.ErrUnauthorized, refused: true, blame: true, also: backend.Failure{Unreachable: true}},
		"certificate":     {err: errors.New("tls: failed to verify certificate: x509: certificate has expired"), kind: dcs.ErrUnauthorized, refused: true, blame: true, also: backend.Failure{Unreachable: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.failed(t.Context(), test.err, test.left)
			var f *backend.Failure
			require.ErrorAs(t, got, &f)
			require.Equal(t, test.kind, f.Kind)
			v := backend.Judge(got)
			require.Equal(t, []bool{test.refused, test.blame, test.final}, []bool{v.Refused, v.Blame, v.Final})
			a := test.also
			require.Equal(t, []any{a.Unconfirmed, a.Unreachable, a.Doubt, a.Throttled, a.Busy}, []any{v.Unconfirmed, v.Unreachable, v.Doubt, v.Throttled, v.Busy})
			require.Equal(t, test.refused, errors.Is(got, attempt.ErrNotSent))
			require.NotEmpty(t, v.Reason)
			if a.Unconfirmed {
				require.ErrorContains(t, got, `key_prefix "t/" { policy = "write" }`)
			}
		})
	}
}

// A response names the pause before the next request in whole seconds. A number that is too
// large counts as a long pause, which the Pool limits to RetryTimeout.
func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "3": 3 * time.Second, "007": 7 * time.Second, "65535": 65535 * time.Second,
		"65536": 65535 * time.Second, "99999999999999999999": 65535 * time.Second,
		"Wed, 21 Oct 2015 07:28:00 GMT": 0, "-1": 0, "+1": 0, "1.5": 0, "1s": 0, "soon": 0, "1 2": 0,
	} {
		t.Run(value, func(t *testing.T) {
			agent := httptest.NewRecorder()
			agent.Header().Set("Retry-After", value)
			agent.WriteHeader(http.StatusServiceUnavailable)
			_, err := checked{cannedResponse{agent.Result()}}.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)) //nolint:bodyclose // there is none
			var s *statusError
			require.ErrorAs(t, err, &s)
			require.Equal(t, want, s.retryAfter)
		})
	}
}

// cannedResponse is a transport that returns one response.
type cannedResponse struct{ resp *http.Response }

func (c cannedResponse) RoundTrip(*http.Request) (*http.Response, error) { return c.resp, nil }

// The minimum session TTL is read from Consul's error.
func TestShortestSession(t *testing.T) {
	d, ok := tooShort(errors.New("Invalid Session TTL '1', must be between [10s=24h0m0s]"))
	require.True(t, ok)
	require.Equal(t, 10*time.Second, d)
	for _, other := range []error{nil, errors.New("No cluster leader"), errors.New("Invalid Session TTL '1', must be between [soon=24h0m0s]")} {
		_, ok := tooShort(other)
		require.False(t, ok)
	}
}

// Config.Slots is the number of Commits in flight.
func TestSlots(t *testing.T) {
	t.Parallel()
	b, err := New(Config{Endpoints: []string{testcluster.SilentServer(t)}, Root: "r", Timing: suiteTiming, Slots: 1})
	require.NoError(t, err)
	defer b.Close()
	testcluster.TestOneSlot(t, b)
}
