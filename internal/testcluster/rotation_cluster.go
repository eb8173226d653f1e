package testcluster

import (
	"crypto/tls"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
)

// ClusterRotation replaces the authority and the certificates of the servers of a cluster
// and of a client, one after the other.
type ClusterRotation struct {
	Cluster *Cluster
	// Files are the files of the client. Their content changes with the steps.
	Files        dcs.TLSFiles
	Older, Newer *testcerts.Authority

	olderCA string // the file of the older authority, which is not replaced
}

// NewClusterRotation starts a cluster with Security, whose authority the client trusts.
func NewClusterRotation(tb testing.TB, o Options) *ClusterRotation {
	tb.Helper()
	o.Security, o.Loopback = true, true
	dir := tb.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	r := &ClusterRotation{
		Cluster: New(tb, o), olderCA: file("older.pem"),
		Files: dcs.TLSFiles{CA: file("ca"), Cert: file("cert"), Key: file("key")},
	}
	r.Older = r.Cluster.Authority()
	var err error
	r.Newer, err = testcerts.NewAuthority(file("newer"), r.Cluster.Hosts())
	require.NoError(tb, err)
	WriteFile(tb, r.olderCA, r.Older.File())
	WriteFile(tb, r.Files.CA, r.olderCA)
	WriteFile(tb, r.Files.Cert, r.Older.Client().Cert)
	WriteFile(tb, r.Files.Key, r.Older.Client().Key)
	return r
}

// AdminTLS returns the configuration of a client with the certificate own that trusts both
// authorities.
func (r *ClusterRotation) AdminTLS(tb testing.TB, own *testcerts.Authority) *tls.Config {
	tb.Helper()
	conf, err := own.Client().Config(r.Newer)
	require.NoError(tb, err)
	conf.RootCAs.AddCert(r.Older.Certificate())
	return conf
}

// Reconnect breaks the connections of the client, to one server after the other.
func (r *ClusterRotation) Reconnect() {
	for _, s := range r.Cluster.Servers() {
		s.Proxy().Reset()()
	}
}

// TrustBoth writes both authorities to the file of those that the servers trust.
func (r *ClusterRotation) TrustBoth(tb testing.TB) {
	WriteFile(tb, r.Older.File(), r.olderCA, r.Newer.File())
}

// TrustNewer writes the newer authority to that file.
func (r *ClusterRotation) TrustNewer(tb testing.TB) { WriteFile(tb, r.Older.File(), r.Newer.File()) }

// Certify replaces the certificates of the servers.
func (r *ClusterRotation) Certify(tb testing.TB) {
	WriteFile(tb, r.Older.Server().Cert, r.Newer.Server().Cert)
	WriteFile(tb, r.Older.Server().Key, r.Newer.Server().Key)
	if r.Cluster.o.Kind == ZooKeeper {
		for _, s := range r.Cluster.Servers() {
			require.NoError(tb, writeKeyStore(zookeeperKeyStore(s), r.Newer.Server()))
		}
	}
}

// Run replaces everything while w makes calls. certify gives the servers their new
// certificates and makes them trust both authorities. newer makes them trust the newer
// authority only.
func (r *ClusterRotation) Run(tb testing.TB, w *Workload, certify, newer func()) {
	tb.Helper()
	WriteFile(tb, r.Files.CA, r.olderCA, r.Newer.File())
	r.Reconnect()
	w.After(tb, "the client trusts both authorities")
	certify()
	w.After(tb, "the servers have their new certificates and trust both authorities")
	WriteFile(tb, r.Files.Cert, r.Newer.Client().Cert)
	WriteFile(tb, r.Files.Key, r.Newer.Client().Key)
	r.Reconnect()
	w.After(tb, "the client has its new certificate")
	newer()
	w.After(tb, "the servers trust the new authority only")
	WriteFile(tb, r.Files.CA, r.Newer.File())
	r.Reconnect()
	w.After(tb, "the client trusts the new authority only")
}

// OpenStore returns a Store on b, which is closed at the end of the test.
func OpenStore(tb testing.TB, b dcs.Backend, timing dcs.Timing) *dcs.Store {
	tb.Helper()
	store, err := dcs.New(b, dcs.Options{Timing: timing})
	require.NoError(tb, err)
	tb.Cleanup(func() { store.Close() })
	return store
}

// RefusesOld requires that a Store with anything old cannot read the key of the Workload.
// open opens a Store with files and with the newer or older secret.
func (r *ClusterRotation) RefusesOld(tb testing.TB, open func(files dcs.TLSFiles, secret string) *dcs.Store, newer, older string) {
	tb.Helper()
	refused := func(what string, store *dcs.Store) {
		_, err := store.Get(tb.Context(), workloadKey)
		require.ErrorIs(tb, err, dcs.ErrUnauthorized, "old %s", what)
	}
	refused("authority", open(dcs.TLSFiles{CA: r.olderCA, Cert: r.Files.Cert, Key: r.Files.Key}, newer))
	refused("certificate", open(dcs.TLSFiles{CA: r.Files.CA, Cert: r.Older.Client().Cert, Key: r.Older.Client().Key}, newer))
	refused("secret", open(r.Files, older))
}
