package consul

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// No call fails while the authority and the certificates are replaced. Each step is
// followed by a new connection.
func TestCertificateRotationCostsNoCall(t *testing.T) {
	r := testcluster.NewRotation(t)
	a := unstartedFake()
	a.Server = httptest.NewUnstartedServer(a)
	a.TLS = r.Server()
	a.StartTLS()
	t.Cleanup(a.Close)
	b := fakeClient(t, func(c *Config) {
		c.Endpoints, c.TLSFiles = []string{strings.TrimPrefix(a.URL, "https://")}, &r.Files
	})
	r.Each(t, func(step string) {
		_, err := b.Snapshot(budget(t), "")
		require.NoError(t, err, step)
		c, err := b.connected(b.Endpoints()[0])
		require.NoError(t, err)
		c.calls.http.CloseIdleConnections()
	})
	r.Back(t)
	_, err := b.Snapshot(budget(t), "")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
}

// The token file is read again when Consul denies a permission. Consul answers a denied
// transaction with the status of a conflict.
func TestTokenIsReadAgainAfterADeniedTransaction(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	replace := func(token string) { assert.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600)) }
	replace("old")
	a := newFake(t)
	b := fakeClient(t, func(c *Config) { c.TokenFile = file }, a)
	a.mu.Lock()
	a.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "7")
		switch {
		case r.URL.Path != "/v1/txn":
			_, _ = w.Write([]byte("[]"))
		case r.Header.Get("X-Consul-Token") == "newest":
			_, _ = w.Write([]byte(`{"Results": [{"KV": {"Key": "t/k", "CreateIndex": 3, "ModifyIndex": 3}}]}`))
		default:
			if r.Header.Get("X-Consul-Token") == "new" { // it is replaced while it is in use
				replace("newest")
			}
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"Errors": [{"OpIndex": 0, "What": "Permission denied: token with AccessorID 'x' lacks permission 'key:write' on \"t/k\""}]}`))
		}
	}
	a.mu.Unlock()
	c, err := b.connected(a.addr())
	require.NoError(t, err)
	read := func() error {
		_, err := b.read(budget(t), c, "k", "other")
		return err
	}
	require.ErrorIs(t, read(), dcs.ErrUnauthorized)
	replace("new")
	require.NoError(t, read(), "a token must be read again as often as it changes")
}
