package etcd3

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// No call fails while the authority and the certificates are replaced. Each step is
// followed by a new connection.
func TestCertificateRotationCostsNoCall(t *testing.T) {
	r := testcluster.NewRotation(t)
	f := newFakeStore()
	addr := serve(t, f.register, grpc.Creds(credentials.NewTLS(r.Server())))
	b, store := f.clientAt(t, addr, Config{TLSFiles: &r.Files})
	r.Each(t, func(step string) {
		_, err := store.Get(t.Context(), "k")
		require.Equal(t, dcs.ErrNotFound, dcs.KindOf(err), "%s: %v", step, err)
		b.conns.Drop(addr)
	})
	r.Back(t)
	_, err := store.Get(t.Context(), "k")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
}

// A warning names a server whose certificate is not verified.
func TestUnverifiedServerIsWarnedOf(t *testing.T) {
	r := testcluster.NewRotation(t)
	var log bytes.Buffer
	var mu sync.Mutex
	f := newFakeStore()
	addr := serve(t, f.register, grpc.Creds(credentials.NewTLS(r.Server())))
	files := r.Files
	files.CA, files.InsecureSkipVerify = "", true
	_, store := f.clientAt(t, addr, Config{TLSFiles: &files, Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))})
	_, err := store.Get(t.Context(), "k")
	require.Equal(t, dcs.ErrNotFound, dcs.KindOf(err), err)
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(log.String(), "tls_insecure_skip_verify")
	}, 5*time.Second, time.Millisecond)

	files = r.Files
	files.ServerName = "another.test"
	_, store = f.clientAt(t, addr, Config{TLSFiles: &files})
	_, err = store.Get(t.Context(), "k")
	require.ErrorIs(t, err, dcs.ErrUnauthorized)
	require.ErrorContains(t, err, "another.test")
}
