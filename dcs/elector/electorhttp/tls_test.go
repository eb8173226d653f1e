package electorhttp_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster/clusterhttp"
	"github.com/holdfast-dcs/holdfast/dcs/elector"
	"github.com/holdfast-dcs/holdfast/dcs/elector/electorhttp"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// startingMember returns a member whose store is down, so that it accepts any leader, with
// its handler.
func startingMember(t *testing.T, token string) (*elector.Elector, http.Handler) {
	t.Helper()
	server := memstore.NewServer(memstore.Options{})
	server.Down()
	store, err := dcs.New(server.Open(memstore.ClientOptions{}), dcs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := elector.Config{Store: store, Scope: "pg", Name: "b", Service: &service{}, Asker: clusterhttp.New(nil), Failsafe: electorhttp.NewFailsafeClient(nil, token)}
	c.Timing.Timing = dcs.Timing{TTL: 5 * time.Second, LoopWait: time.Second, RetryTimeout: time.Second}
	c.Member.APIURL = "http://b"
	e, err := elector.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() { cancel(); server.Up(); <-ended; _ = store.Close() })
	go func() { defer close(ended); _ = e.Run(ctx) }() // ends with the test
	return e, electorhttp.New(e, electorhttp.Options{FailsafeToken: token})
}

// authority returns an authority with its certificates.
func authority(t *testing.T) *testcerts.Authority {
	t.Helper()
	ca, err := testcerts.NewAuthority(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// tlsConfig returns the configuration of a process with the certificate p, which trusts ca.
func tlsConfig(t *testing.T, ca *testcerts.Authority, p testcerts.Pair) *tls.Config {
	t.Helper()
	c, err := p.Config(ca)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveTLS serves h with the certificate p, and requires a certificate of ca.
func serveTLS(t *testing.T, h http.Handler, ca *testcerts.Authority, p testcerts.Pair) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = tlsConfig(t, ca, p)
	s.TLS.ClientCAs, s.TLS.ClientAuth = s.TLS.RootCAs, tls.RequireAndVerifyClientCert
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// Over TLS a question reaches only the member whose certificate fits, and only with a
// certificate and the token of the members. Any other one changes nothing.
func TestFailsafeTLS(t *testing.T) {
	const token = "the-shared-secret"
	e, h := startingMember(t, token)
	ca, other := authority(t), authority(t)
	url := serveTLS(t, h, ca, ca.Server())
	good := tlsConfig(t, ca, ca.Client())
	change := func(f func(c *tls.Config)) *tls.Config {
		c := good.Clone()
		f(c)
		return c
	}
	r := elector.FailsafeRequest{Scope: "pg", Name: "a", Instance: "i", Token: 7, TTL: 30 * time.Second, Member: "b"}
	ask := func(url string, c *tls.Config, token string) (elector.FailsafeAnswer, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return electorhttp.NewFailsafeClient(&http.Transport{TLSClientConfig: c}, token).AskFailsafe(ctx, url, r)
	}
	for name, test := range map[string]struct {
		url   string
		tls   *tls.Config
		token string
		want  string
	}{
		"server of another authority":      {serveTLS(t, h, ca, other.Server()), good, token, "unknown authority"},
		"client trusts another authority":  {url, change(func(c *tls.Config) { c.RootCAs = tlsConfig(t, other, other.Client()).RootCAs }), token, "unknown authority"},
		"client trusts the system's":       {url, change(func(c *tls.Config) { c.RootCAs = nil }), token, "unknown authority"},
		"certificate of another server":    {serveTLS(t, h, ca, ca.Other()), good, token, "127.0.0.1"},
		"another server name":              {url, change(func(c *tls.Config) { c.ServerName = "b.test" }), token, "b.test"},
		"expired server":                   {serveTLS(t, h, ca, ca.Expired()), good, token, "expired"},
		"no client certificate":            {url, change(func(c *tls.Config) { c.Certificates = nil }), token, "certificate"},
		"client of another authority":      {url, change(func(c *tls.Config) { c.Certificates = tlsConfig(t, other, other.Client()).Certificates }), token, "certificate"},
		"expired client":                   {url, change(func(c *tls.Config) { c.Certificates = tlsConfig(t, ca, ca.Expired()).Certificates }), token, "certificate"},
		"older TLS":                        {url, change(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), token, "protocol version"},
		"plain HTTP":                       {strings.Replace(url, "https:", "http:", 1), good, token, "only over TLS"},
		"plain HTTP to such a server":      {servePlain(t, h), good, token, "only over TLS"},
		"TLS to a server without it":       {strings.Replace(servePlain(t, h), "http:", "https:", 1), good, token, "HTTP"},
		"another token":                    {url, good, "another-shared-secret", "status 401"},
		"the beginning of the token":       {url, good, token[:5], "status 401"},
		"no token":                         {url, good, "", "the failsafe token is empty"},
		"another token and no certificate": {url, change(func(c *tls.Config) { c.Certificates = nil }), "another-shared-secret", "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := ask(test.url, test.tls, test.token)
			if err == nil || a.Accepted || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "shared-secret") {
				t.Errorf("%+v, %v, want %q", a, err, test.want)
			}
		})
	}
	// An older leader is accepted, because none of these questions has changed anything.
	for _, test := range []struct {
		name  string
		token dcs.Revision
		want  string
	}{{"c", 6, ""}, {"a", 7, ""}, {"c", 6, `member "a" has led since`}} {
		r.Name, r.Token = test.name, test.token
		if a, err := ask(url, good, token); err != nil || a.Name != "b" || a.Accepted != (test.want == "") || !strings.Contains(a.Reason, test.want) {
			t.Errorf("%s, %d: %+v, %v", test.name, test.token, a, err)
		}
	}
	if id, err := clusterhttp.New(&http.Transport{TLSClientConfig: good}).Ask(t.Context(), url); err != nil || id != e.Identity() {
		t.Errorf("%+v, %v", id, err)
	}
}

// servePlain serves h without TLS.
func servePlain(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
