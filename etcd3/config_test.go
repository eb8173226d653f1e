package etcd3

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

func TestConfigNamesEveryFault(t *testing.T) {
	_, err := New(Config{
		Endpoints: []string{"http://h:2379", "h"}, Root: "a//b", Username: "u",
		Timing: dcs.Timing{TTL: time.Second, LoopWait: time.Second, RetryTimeout: time.Second},
	})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	for _, part := range []string{"without a scheme", "Root", "Username and Password", "RetryTimeout"} {
		require.ErrorContains(t, err, part)
	}
	_, err = New(Config{Root: "r"})
	require.ErrorContains(t, err, "Endpoints is empty")
}

func TestAddresses(t *testing.T) {
	c, err := Config{Endpoints: []string{"h", " h:2379", "h:1", "[::1]"}, Root: "r"}.check()
	require.NoError(t, err)
	require.Equal(t, []string{"h:2379", "h:1", "[::1]:2379"}, c.Endpoints)
	for url, want := range map[string]string{"http://h:2379": "h:2379", "http://h": "h:2379", "http://h:1/": "h:1"} {
		got, ok := clientAddress(url, false)
		require.True(t, ok, url)
		require.Equal(t, want, got)
	}
	for _, url := range []string{"https://h:1", "unix://x", "h:1", "http://:1", "http://h:0"} {
		_, ok := clientAddress(url, false)
		require.False(t, ok, url)
	}
}

func TestURL(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("p w\n"), 0o600))
	u, err := dcs.ParseURL("etcd3://h1:1,h2/pg/main?username=u&password_file=" + filepath.ToSlash(secret) + "&discovery=false&tls=true&slots=3")
	require.NoError(t, err)
	c, err := configFromURL(u, dcs.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"h1:1", "h2"}, c.Endpoints)
	require.Equal(t, "pg/main", c.Root)
	require.Equal(t, "u", c.Username)
	checked, err := c.check()
	require.NoError(t, err)
	require.Equal(t, "p w", checked.password.Current(), "the end of the line is not part of the password")
	require.True(t, c.NoDiscovery)
	require.Equal(t, 3, c.Slots)
	require.Equal(t, &dcs.TLSFiles{}, c.TLSFiles)

	for url, want := range map[string]string{
		"etcd3:///r":                                    "no host",
		"etcd3://h":                                     "no root",
		"etcd3://h/r?username=u":                        "password_file",
		"etcd3://h/r?wait=perhaps":                      "true or false",
		"etcd3://h/r?tls_cert=x":                        "tls_key",
		"etcd3://h/r?tls_ca=/no/such":                   "tls_ca",
		"etcd3://h/r?slots=many":                        "a number like",
		"etcd3://h/r?slots=-1":                          "Slots -1",
		"etcd3://h/r?nosuch=1":                          "nosuch",
		"etcd3://h/r?discovery=perhaps":                 "discovery",
		"etcd3://h/r?tls=perhaps":                       "tls=perhaps",
		"etcd3://h/r?tls_insecure_skip_verify=perhaps":  "tls_insecure_skip_verify",
		"etcd3://h/r?tls_key_password_file=/x":          "tls_key_password_file",
		"etcd3://h:99999/r":                             "from 1 to 65535",
		"etcd3://h,:2379/r":                             "host",
		"etcd3://h:/r":                                  "port",
		"etcd3://h/r?srv=example.test":                  "exclude each other",
		"etcd3://h/r?password_file=/x":                  "username",
		"etcd3://h/r?username=u&password_file=/no/such": "password_file",
	} {
		_, err := dcs.Open(t.Context(), url, dcs.Options{})
		require.ErrorIs(t, err, dcs.ErrInvalid, url)
		require.ErrorContains(t, err, want, url)
	}
}

// Each etcd error becomes the failure in the table of errors.go, or an unclear one if
// the table does not list the error.
func TestMeanings(t *testing.T) {
	b, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Root: "r"})
	require.NoError(t, err)
	defer b.Close()
	c, err := b.connected("127.0.0.1:1")
	require.NoError(t, err)
	soon, cancel := context.WithTimeout(t.Context(), sameMoment/2)
	defer cancel()
	require.Equal(t, context.DeadlineExceeded, c.failed(soon, status.Error(codes.DeadlineExceeded, "context deadline exceeded"), true), "the member detected the end of the deadline first")
	for name, test := range map[string]struct {
		err                   error
		left                  bool
		kind                  error
		refused, blame, final bool
		also                  backend.Failure
	}{
		"no leader":            {err: rpctypes.ErrGRPCNoLeader, left: true, refused: true, also: backend.Failure{Doubt: true}},
		"too many requests":    {err: rpctypes.ErrGRPCRequestTooManyRequests, left: true, refused: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"a proxy is busy":      {err: status.Error(codes.Unavailable, "unexpected HTTP status code received from server: 503 (Service Unavailable)"), left: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"a learner":            {err: rpctypes.ErrGRPCNotSupportedForLearner, left: true, refused: true, also: backend.Failure{Unreachable: true}},
		"too many dials":       {err: status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: `+endpoint.ErrDials.Error()+`"`), refused: true, also: backend.Failure{Local: true}},
		"timed out":            {err: rpctypes.ErrGRPCTimeout, left: true, blame: true},
		"leader changed":       {err: rpctypes.ErrGRPCLeaderChanged, left: true, blame: true},
		"its own deadline":     {err: status.Error(codes.DeadlineExceeded, "context deadline exceeded"), left: true, blame: true},
		"not a primary lessor": {err: status.Error(codes.Unknown, "not a primary lessor"), left: true, blame: true},
		"no space":             {err: rpctypes.ErrGRPCNoSpace, left: true, kind: dcs.ErrUnavailable, final: true},
		"too large":            {err: rpctypes.ErrGRPCRequestTooLarge, left: true, kind: dcs.ErrInvalid, refused: true, final: true},
		"an answer too large":  {err: status.Error(codes.ResourceExhausted, "trying to send message larger than max (5000000 vs. 4194304)"), left: true, kind: dcs.ErrUnavailable, final: true},
		"denied":               {err: rpctypes.ErrGRPCPermissionDenied, left: true, kind: dcs.ErrUnauthorized, refused: true, also: backend.Failure{Unconfirmed: true}},
		"wrong password":       {err: rpctypes.ErrGRPCAuthFailed, left: true, kind: dcs.ErrUnauthorized, refused: true, also: backend.Failure{Unconfirmed: true}},
		"never left":           {err: status.Error(codes.Unavailable, "connection refused"), refused: true, blame: true, also: backend.Failure{Unreachable: true}},
		"cut in the middle":    {err: status.Error(codes.Unavailable, "error reading from server: EOF"), left: true, blame: true},
		"cut in the handshake": {err: status.Error(codes.Unavailable, `connection error: desc = "transport: authentication handshake failed: read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer"`), refused: true, blame: true, also: backend.Failure{Unreachable: true}},
		"certificate":          {err: status.Error(codes.Unavailable, "tls: failed to verify certificate: x509: expired"), kind: dcs.ErrUnauthorized, refused: true, blame: true, also: backend.Failure{Unreachable: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.failed(t.Context(), test.err, test.left)
			var f *backend.Failure
			require.ErrorAs(t, got, &f)
			require.Equal(t, test.kind, f.Kind)
			v := backend.Judge(got)
			require.Equal(t, test.refused, v.Refused)
			require.Equal(t, test.blame, v.Blame)
			require.Equal(t, test.final, v.Final)
			a := test.also
			require.Equal(t, []any{a.Unconfirmed, a.Unreachable, a.Doubt, a.Throttled, a.Busy, a.Local}, []any{v.Unconfirmed, v.Unreachable, v.Doubt, v.Throttled, v.Busy, v.Local})
			var own interface{ Local() bool }
			require.Equal(t, a.Local, errors.As(got, &own), "the Store logs no outage")
			require.Equal(t, test.refused, errors.Is(got, attempt.ErrNotSent))
			require.NotEmpty(t, v.Reason)
		})
	}
}
