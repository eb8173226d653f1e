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
	*testcluster.ClusterRotation
	t *testing.T
}

// admin returns a client with every permission and the certificate own.
func (r *rotatingServer) admin(own *testcerts.Authority) *api.Client {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: r.AdminTLS(r.t, own)}
	c, err := api.NewClient(&api.Config{
		Address: r.Cluster.Servers()[0].Direct(), Scheme: "https", Token: testcluster.Token,
		HttpClient: &http.Client{Transport: transport, Timeout: 15 * time.Second},
	})
	require.NoError(r.t, err)
	return c
}

// reload makes the server read its files again. own is trusted before.
func (r *rotatingServer) reload(own *testcerts.Authority) {
	require.NoError(r.t, r.admin(own).Agent().Reload())
	r.Reconnect()
}

// openWith opens a Store with credentials in files.
func (r *rotatingServer) openWith(files dcs.TLSFiles, token string) *dcs.Store {
	timing := dcs.Timing{}.WithDefaults()
	b, err := New(Config{
		Endpoints: r.Cluster.Endpoints(), Root: harness.EnvRoot + "/rotation", Node: suiteNode, MinTTL: time.Second, Timing: timing,
		TLSFiles: &files, TokenFile: token,
	})
	require.NoError(r.t, err)
	return testcluster.OpenStore(r.t, b, timing)
}

// No call of any kind fails while the authority, the certificates of server and client, and
// the token are replaced one after the other. Afterwards nobody can use the old ones.
func TestRotationOfAllCredentialsCostsNoCall(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("it starts a server of its own: set HOLDFAST_PROFILE=slow")
	}
	r := &rotatingServer{testcluster.NewClusterRotation(t, testcluster.Options{Kind: testcluster.Consul, Nodes: 1}), t}
	dir := t.TempDir()
	oldToken := filepath.Join(dir, "old-token")
	token := &tokens{tb: t, admin: r.admin(r.Older), file: filepath.Join(dir, "token")}
	token.renew(testcluster.ConsulRules(suiteNode))
	testcluster.WriteFile(t, oldToken, token.file)
	w := testcluster.StartWorkload(t, r.openWith(r.Files, token.file))
	w.After(t, "nothing has changed")
	r.Run(t, w, func() {
		r.Certify(t)
		r.TrustBoth(t)
		r.reload(r.Older)
	}, func() {
		r.TrustNewer(t)
		r.reload(r.Newer)
	})
	token.admin = r.admin(r.Newer)
	token.renew(testcluster.ConsulRules(suiteNode))
	w.After(t, "the token has changed")
	t.Log(w.Calls())
	r.RefusesOld(t, r.openWith, token.file, oldToken)
}
