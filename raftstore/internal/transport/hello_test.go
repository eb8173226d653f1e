package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPeersThatDoNotFit: both sides must report the reason, the dialling one
// to its caller and the accepting one to its log, and send nothing.
func TestPeersThatDoNotFit(t *testing.T) {
	const version = "version 3 of the protocol, this one version 2: run the same release"
	for name, tc := range map[string]struct {
		edit             func(a *Network)
		atDialler, atLog string
	}{
		"version": {func(a *Network) { a.hello.version = 3 }, "speaks version 2 of the protocol, this one version 3", version},
		"cluster": {func(a *Network) { a.hello.cluster[0]++ }, "belongs to another cluster", "belongs to another cluster"},
		"twin":    {func(a *Network) { a.hello.ID = "b" }, `is named "b" too`, "every node needs an ID of its own"},
		"swapped": {func(a *Network) {
			a.UseNodes(func() map[string]string { return map[string]string{"c": a.config.Peers["b"]} })
		}, `node "b" answers there and node "c" was expected`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			configs := testOptions(t, 2)
			log := &recorder{}
			configs[1].Logger = log.logger()
			a, b := startNetwork(t, configs[0]), startNetwork(t, configs[1])
			b.Serve(echo)
			tc.edit(a)
			_, err := a.Call(testContext(t), b.Addr(), 1, []byte("x"))
			require.ErrorIs(t, err, ErrNotSent)
			require.ErrorIs(t, err, ErrPeerRefused)
			require.ErrorContains(t, err, tc.atDialler)
			require.ErrorContains(t, err, b.Addr())
			require.Eventually(t, func() bool { return strings.Contains(log.String(), tc.atLog) }, 10*time.Second, time.Millisecond)
			assert.Empty(t, a.Conns())
		})
	}
}

// TestOtherVersionOverTLS: ALPN lets every version in, so that the hello can
// name both.
func TestOtherVersionOverTLS(t *testing.T) {
	a, b := startPair(t, newTestCA(t).secure(t))
	a.hello.version = 3
	_, err := a.Call(testContext(t), b.Addr(), 1, nil)
	require.ErrorIs(t, err, ErrPeerRefused)
	require.ErrorContains(t, err, "version 2 of the protocol, this one version 3")
}

func TestHelloAndALPNMustAgree(t *testing.T) {
	ca := newTestCA(t)
	_, b := startPair(t, ca.secure(t))
	files := ca.issue(t, "zz", nil)
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert},
		NextProtos: []string{alpn(KindRaft, wireVersion)},
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(testContext(t), "tcp", b.Addr())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, _ = b.hello.asPeer("a").greet(conn, KindCall, "")
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
}

func TestRefusalsAreNotRepeated(t *testing.T) {
	log := &recorder{}
	_, b := startPair(t, func(c *Options) { c.Logger = log.logger() })
	for range 20 {
		conn, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	require.Equal(t, 1, strings.Count(log.String(), "a connection was refused"))
}

// TestCloseConnsEndsHandshakes: a handshake under way is dropped too.
func TestCloseConnsEndsHandshakes(t *testing.T) {
	_, b := startPair(t, func(c *Options) { c.HeartbeatTimeout = mostDial })
	require.Equal(t, mostDial, b.timeout)
	silent, err := net.Dial("tcp", b.Addr())
	require.NoError(t, err)
	defer silent.Close()
	require.Eventually(t, func() bool {
		b.reg.mu.Lock()
		defer b.reg.mu.Unlock()
		return len(b.reg.open) == 1
	}, 10*time.Second, time.Millisecond)
	b.closeConns()
	require.NoError(t, silent.SetReadDeadline(time.Now().Add(mostDial/2)))
	_, err = silent.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestClusterID(t *testing.T) {
	id := NewClusterID("r")
	require.Equal(t, id, NewClusterID("r"))
	require.NotEqual(t, id, NewClusterID("r2"))
	require.False(t, bytes.Equal(id[:], make([]byte, 16)))
}
