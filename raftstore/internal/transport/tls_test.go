package transport

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport/transporttest"
)

// testCA is an authority made for one test.
type testCA struct{ *transporttest.CA }

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	return &testCA{transporttest.NewCA(t)}
}

// issue writes a certificate for 127.0.0.1, edited, and returns its files.
func (ca *testCA) issue(t testing.TB, name string, edit func(*x509.Certificate)) *TLS {
	t.Helper()
	return (*TLS)(ca.Issue(t, name, edit))
}

// secure gives every node a good certificate.
func (ca *testCA) secure(t testing.TB) func(*Options) {
	return func(o *Options) { o.TLS = ca.issue(t, o.ID, nil) }
}

func TestMuxTLS(t *testing.T) { testMux(t, newTestCA(t).secure(t)) }

func TestTLSNeverSpeaksPlaintext(t *testing.T) {
	a, _ := startPair(t, newTestCA(t).secure(t))
	// A listener that records the first bytes of a dialling node.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	first := make(chan []byte, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		_, _ = conn.Write(Hello{version: wireVersion, ID: "b"}.tail([]byte{helloMarker | byte(KindCall), wireVersion, 0}, KindCall))
		rest, _ := io.ReadAll(conn)
		first <- append(buf[:n], rest...)
	}()
	secret := "this request is secret"
	_, err = a.Call(testContext(t), ln.Addr().String(), 1, []byte(secret))
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, "does not speak TLS")
	sent := <-first
	require.Equal(t, byte(tlsHandshake), sent[0])
	require.NotContains(t, string(sent), secret)
}

// TestTLSMismatch: one node has TLS, the other has not.
func TestTLSMismatch(t *testing.T) {
	configs := testOptions(t, 2)
	newTestCA(t).secure(t)(&configs[0])
	secured, plain := startNetwork(t, configs[0]), startNetwork(t, configs[1])
	secured.Serve(echo)
	plain.Serve(echo)
	_, err := secured.Call(testContext(t), plain.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorContains(t, err, "set TLS on all nodes or on none")
	_, err = plain.Call(testContext(t), secured.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorContains(t, err, "set TLS on all nodes or on none")
}

// TestBadCertificateAtStart: a node that the others would refuse says so at
// once.
func TestBadCertificateAtStart(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	good := ca.issue(t, "good", nil)
	broken := filepath.Join(ca.Dir, "broken.pem")
	require.NoError(t, os.WriteFile(broken, []byte("no PEM"), 0o600))
	cases := map[string]struct {
		files *TLS
		want  string
	}{
		"wrong authority": {
			&TLS{CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: other.File},
			"unknown authority",
		},
		"expired": {
			ca.issue(t, "expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
			"expired",
		},
		"not yet valid": {
			ca.issue(t, "early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
			"not yet valid",
		},
		"wrong host": {
			ca.issue(t, "host", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"elsewhere.test"} }),
			"does not name this node's address",
		},
		"server use only": {
			ca.issue(t, "server", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }),
			"incompatible key usage",
		},
		"missing certificate": {&TLS{CertFile: "/nonexistent/a.pem", KeyFile: good.KeyFile, CAFile: ca.File}, "/nonexistent/a.pem"},
		"missing authority":   {&TLS{CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: "/nonexistent/ca.pem"}, "TLS.CAFile"},
		"broken authority":    {&TLS{CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: broken}, "no certificate in PEM form"},
		"key of another":      {&TLS{CertFile: good.CertFile, KeyFile: ca.issue(t, "x", nil).KeyFile, CAFile: ca.File}, "no usable pair"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := testOptions(t, 1)[0]
			c.TLS = tc.files
			_, err := New(c)
			var unusable *OptionsError
			require.ErrorAs(t, err, &unusable)
			require.ErrorContains(t, err, tc.want)
			ln, err := net.Listen("tcp", c.Listen)
			require.NoError(t, err, "nothing is left listening")
			ln.Close()
		})
	}
}

// recorder keeps the log messages.
type recorder struct {
	mu   sync.Mutex
	text []byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, b...)
	return len(b), nil
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text)
}

func (r *recorder) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// rawTLS makes a connection to n with a configuration of the test's.
func rawTLS(t *testing.T, n *Network, config *tls.Config) error {
	t.Helper()
	config.MinVersion = tls.VersionTLS13
	if config.NextProtos == nil {
		config.NextProtos = []string{alpn(KindCall, wireVersion)}
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(testContext(t), "tcp", n.Addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = n.hello.asPeer("a").greet(conn, KindCall, "")
	return err
}

func (h Hello) asPeer(id string) Hello {
	h.ID = id
	return h
}

// TestBadClientCertificate: the certificates that a node accepts, and its log.
func TestBadClientCertificate(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	log := &recorder{}
	_, b := startPair(t, ca.secure(t), func(c *Options) { c.Logger = log.logger() })
	load := func(files *TLS) []tls.Certificate {
		cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
		require.NoError(t, err)
		return []tls.Certificate{cert}
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	require.NoError(t, rawTLS(t, b, &tls.Config{RootCAs: roots, Certificates: load(ca.issue(t, "ok", nil))}), "the control")

	expired := ca.issue(t, "old", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	for name, tc := range map[string]struct {
		config *tls.Config
		want   string
	}{
		"none":      {&tls.Config{RootCAs: roots}, "certificate required"},
		"foreign":   {&tls.Config{RootCAs: roots, Certificates: load(other.issue(t, "f", nil))}, ""},
		"expired":   {&tls.Config{RootCAs: roots, Certificates: load(expired)}, "expired"},
		"other app": {&tls.Config{RootCAs: roots, Certificates: load(ca.issue(t, "ok", nil)), NextProtos: []string{"h2"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := rawTLS(t, b, tc.config)
			require.Error(t, err)
			require.ErrorContains(t, err, tc.want)
		})
	}
	assert.Contains(t, log.String(), "a connection was refused")
	assert.NotContains(t, log.String(), "PRIVATE KEY")
}

// TestWrongPeerCertificate: the certificates that a dialling node refuses, and its
// caller.
func TestWrongPeerCertificate(t *testing.T) {
	ca := newTestCA(t)
	a, _ := startPair(t, ca.secure(t))
	for name, tc := range map[string]struct {
		files *TLS
		want  string
	}{
		"foreign":    {newTestCA(t).issue(t, "f", nil), "unknown authority"},
		"expired":    {ca.issue(t, "e", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		"wrong host": {ca.issue(t, "w", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"b.test"} }), "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := tls.LoadX509KeyPair(tc.files.CertFile, tc.files.KeyFile)
			require.NoError(t, err)
			ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
				NextProtos: []string{alpn(KindCall, wireVersion)},
			})
			require.NoError(t, err)
			defer ln.Close()
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, conn)
					conn.Close()
				}
			}()
			_, err = a.Call(testContext(t), ln.Addr().String(), 1, []byte("x"))
			require.ErrorIs(t, err, ErrNotSent)
			require.ErrorIs(t, err, ErrPeerRefused)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// TestCertificatesAreRenewed replaces the files under a running node.
func TestCertificatesAreRenewed(t *testing.T) {
	ca := newTestCA(t)
	log := &recorder{}
	a, b := startPair(t, ca.secure(t), func(c *Options) { c.Logger = log.logger() })
	mustCall(t, a, b.Addr(), "with the first")
	serial := func() *big.Int {
		cert, _ := b.creds.current()
		return cert.Leaf.SerialNumber
	}
	first := serial()
	renewed := ca.issue(t, "b", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(4711) })
	touch(t, renewed.CertFile)
	b.closeConns()
	require.Eventually(t, func() bool {
		_, err := a.Call(testContext(t), b.Addr(), 1, nil)
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.NotEqual(t, first, serial())
	require.Equal(t, int64(4711), serial().Int64())

	ca.issue(t, "b", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"elsewhere.test"} })
	require.Equal(t, int64(4711), serial().Int64(), "the others would refuse it")
	require.NoError(t, os.WriteFile(renewed.CertFile, []byte("half a fi"), 0o600))
	require.Equal(t, int64(4711), serial().Int64(), "the credentials that worked stay in use")
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "the old ones stay in use") }, 10*time.Second, time.Millisecond)
}

// touch moves a file's time on, for file systems whose clock is coarse.
func touch(t *testing.T, path string) {
	t.Helper()
	later := time.Now().Add(time.Second)
	require.NoError(t, os.Chtimes(path, later, later))
}
