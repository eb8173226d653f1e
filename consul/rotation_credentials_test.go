package consul

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// rotatingServer is a server with ACLs whose authority and certificate are replaced.
type rotatingServer struct {
	t            *testing.T
	c            *testcluster.Cluster
	older, newer *testcerts.Authority
	olderCA      string // the file of the older authority, which is not replaced
}

func newRotatingServer(t *testing.T) *rotatingServer {
	dir := t.TempDir()
	r := &rotatingServer{t: t, olderCA: filepath.Join(dir, "older.pem")}
	r.c = testcluster.New(t, testcluster.Options{Kind: testcluster.Consul, Nodes: 1, Security: true, Loopback: true})
	r.older = r.c.Authority()
	testcluster.WriteFile(t, r.olderCA, r.older.File())
	var err error
	r.newer, err = testcerts.NewAuthority(filepath.Join(dir, "newer"), r.c.Hosts())
	require.NoError(t, err)
	return r
}

// admin returns a client with every permission and the certificate own.
func (r *rotatingServer) admin(own *testcerts.Authority) *api.Client {
	conf, err := own.Client().Config(r.newer)
	require.NoError(r.t, err)
	conf.RootCAs.AddCert(r.older.Certificate())
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: conf}
	c, err := api.NewClient(&api.Config{
		Address: r.c.Servers()[0].Direct(), Scheme: "https", Token: testcluster.Token,
		HttpClient: &http.Client{Transport: transport, Timeout: 15 * time.Second},
	})
	require.NoError(r.t, err)
	return c
}

// trust makes the server trust the authorities in files. own is trusted before.
func (r *rotatingServer) trust(own *testcerts.Authority, files ...string) {
	testcluster.WriteFile(r.t, r.older.File(), files...)
	require.NoError(r.t, r.admin(own).Agent().Reload())
	r.reconnect()
}

// reconnect breaks the connections of the client.
func (r *rotatingServer) reconnect() { r.c.Servers()[0].Proxy().Reset()() }

// openWith opens a Store with credentials in files.
func (r *rotatingServer) openWith(files dcs.TLSFiles, token string) *dcs.Store {
	timing := dcs.Timing{}.WithDefaults()
	b, err := New(Config{
		Endpoints: r.c.Endpoints(), Root: harness.EnvRoot + "/rotation", Node: suiteNode, MinTTL: time.Second, Timing: timing,
		TLSFiles: &files, TokenFile: token,
	})
	require.NoError(r.t, err)
	store, err := dcs.New(b, dcs.Options{Timing: timing})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { store.Close() })
	return store
}

// No call of any kind fails while the authority, the certificates of server and client, and
// the token are replaced one after the other. Afterwards nobody can use the old ones.
func TestRotationOfAllCredentialsCostsNoCall(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("it starts a server of its own: set HOLDFAST_PROFILE=slow")
	}
	r := newRotatingServer(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	files := dcs.TLSFiles{CA: file("ca"), Cert: file("cert"), Key: file("key")}
	oldPair, newPair := r.older.Client(), r.newer.Client()
	testcluster.WriteFile(t, files.CA, r.olderCA)
	testcluster.WriteFile(t, files.Cert, oldPair.Cert)
	testcluster.WriteFile(t, files.Key, oldPair.Key)
	token := &tokens{tb: t, admin: r.admin(r.older), file: file("token")}
	token.renew(testcluster.ConsulRules(suiteNode))
	testcluster.WriteFile(t, file("old-token"), token.file)
	w := testcluster.StartWorkload(t, r.openWith(files, token.file))
	w.After(t, "nothing has changed")

	testcluster.WriteFile(t, files.CA, r.olderCA, r.newer.File())
	r.reconnect()
	w.After(t, "the client trusts both authorities")
	testcluster.WriteFile(t, r.older.Server().Cert, r.newer.Server().Cert)
	testcluster.WriteFile(t, r.older.Server().Key, r.newer.Server().Key)
	r.trust(r.older, r.olderCA, r.newer.File())
	w.After(t, "the server has its new certificate and trusts both authorities")
	testcluster.WriteFile(t, files.Cert, newPair.Cert)
	testcluster.WriteFile(t, files.Key, newPair.Key)
	r.reconnect()
	w.After(t, "the client has its new certificate")
	r.trust(r.newer, r.newer.File())
	w.After(t, "the server trusts the new authority only")
	testcluster.WriteFile(t, files.CA, r.newer.File())
	r.reconnect()
	w.After(t, "the client trusts the new authority only")
	token.admin = r.admin(r.newer)
	token.renew(testcluster.ConsulRules(suiteNode))
	w.After(t, "the token has changed")
	t.Log(w.Calls())

	for name, old := range map[string]struct {
		files dcs.TLSFiles
		token string
	}{
		"authority":   {dcs.TLSFiles{CA: r.olderCA, Cert: files.Cert, Key: files.Key}, token.file},
		"certificate": {dcs.TLSFiles{CA: files.CA, Cert: oldPair.Cert, Key: oldPair.Key}, token.file},
		"token":       {files, file("old-token")},
	} {
		_, err := r.openWith(old.files, old.token).Get(t.Context(), "workload/key")
		require.ErrorIs(t, err, dcs.ErrUnauthorized, name)
	}
}
