package testcluster

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
)

// Rotation replaces the authority, the certificate of a local server and the certificate
// of its clients, one after the other.
type Rotation struct {
	// Files are the files of the client. Their content changes with the steps.
	Files        dcs.TLSFiles
	older, newer *testcerts.Authority

	mu     sync.Mutex
	server *tls.Config
}

// NewRotation returns a Rotation with one authority, which the server and the client
// trust.
func NewRotation(tb testing.TB) *Rotation {
	dir := tb.TempDir()
	r := &Rotation{Files: dcs.TLSFiles{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}}
	var err error
	r.older, err = testcerts.NewAuthority(filepath.Join(dir, "older"), nil)
	require.NoError(tb, err)
	r.newer, err = testcerts.NewAuthority(filepath.Join(dir, "newer"), nil)
	require.NoError(tb, err)
	WriteFile(tb, r.Files.CA, r.older.File())
	WriteFile(tb, r.Files.Cert, r.older.Client().Cert)
	WriteFile(tb, r.Files.Key, r.older.Client().Key)
	r.serve(tb, r.older, r.older)
	return r
}

// Server returns the configuration of the server, which changes with the steps.
func (r *Rotation) Server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.server, nil
	}}
}

var protocols = []string{"h2", "http/1.1"}

// Each calls connects before and after every step. connects must make a new connection,
// and fail the test if it cannot.
func (r *Rotation) Each(tb testing.TB, connects func(step string)) {
	connects("before")
	WriteFile(tb, r.Files.CA, r.older.File(), r.newer.File())
	connects("both authorities are trusted")
	r.serve(tb, r.newer, r.older, r.newer)
	connects("the server has its new certificate")
	WriteFile(tb, r.Files.Cert, r.newer.Client().Cert)
	connects("the key of the new certificate is not written yet")
	WriteFile(tb, r.Files.Key, r.newer.Client().Key)
	connects("the new certificate and its key are written")
	r.serve(tb, r.newer, r.newer)
	connects("the server trusts the new authority only")
	WriteFile(tb, r.Files.CA)
	connects("the file of the authorities is being written")
	WriteFile(tb, r.Files.CA, r.newer.File())
	connects("after")
}

// Back gives the server its first certificate again, which is no longer trusted.
func (r *Rotation) Back(tb testing.TB) { r.serve(tb, r.older, r.older, r.newer) }

// WriteFile writes the concatenation of the files from to the file to.
func WriteFile(tb testing.TB, to string, from ...string) {
	tb.Helper()
	var all strings.Builder
	for _, f := range from {
		data, err := os.ReadFile(f) //nolint:gosec // G304: our own file
		require.NoError(tb, err)
		all.Write(data)
	}
	require.NoError(tb, os.WriteFile(to, []byte(all.String()), 0o600))
}

// serve gives the server the certificate of own and makes it trust clients of others.
func (r *Rotation) serve(tb testing.TB, own *testcerts.Authority, others ...*testcerts.Authority) {
	pair, err := tls.LoadX509KeyPair(own.Server().Cert, own.Server().Key)
	require.NoError(tb, err)
	pool := x509.NewCertPool()
	for _, a := range others {
		pool.AddCert(a.Certificate())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server = &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
}
