package credentials_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// serve answers each connection with one byte.
func serve(t *testing.T, conf *tls.Config) string {
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() { // until the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Write([]byte("x"))
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, conf *credentials.TLS, addr string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	require.NoError(t, err)
	defer raw.Close()
	c, err := credentials.Client(ctx, raw, conf, addr)
	if err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1)) // in TLS 1.3 the server's refusal comes after the handshake
	return err
}

// A whole rotation of authority, server certificate and client certificate costs
// no connection.
func TestRotationCostsNoConnection(t *testing.T) {
	r := testcluster.NewRotation(t)
	var log strings.Builder
	conf, err := credentials.NewTLS(r.Files, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	addr := serve(t, r.Server())
	r.Each(t, func(step string) { require.NoError(t, dial(t, conf, addr), step) })
	require.Contains(t, log.String(), "no usable pair")
	require.Equal(t, 2, strings.Count(log.String(), "level=WARN"), log.String())
	r.Back(t)
	require.ErrorContains(t, dial(t, conf, addr), "unknown authority", "the old authority is trusted no more")
}

func TestTLSFiles(t *testing.T) {
	silent := slog.New(slog.DiscardHandler)
	for says, files := range map[string]dcs.TLSFiles{
		"tls_key":               {Cert: "x"},
		"tls_ca":                {CA: "/no/such/file"},
		"tls_key_password_file": {KeyPasswordFile: "x"},
		"no certificate":        {CA: "testdata/plain.key"},
		"no usable pair":        {Cert: "testdata/cert.pem", Key: "testdata/cert.pem"},
	} {
		_, err := credentials.NewTLS(files, silent)
		require.ErrorContains(t, err, says)
	}
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	conf, err := credentials.NewTLS(dcs.TLSFiles{Cert: "testdata/cert.pem", Key: "testdata/aes256.key", KeyPasswordFile: password, ServerName: "db"}, silent)
	require.NoError(t, err)
	require.Equal(t, "db", conf.Config().ServerName)
	require.False(t, conf.Insecure())
	conf, err = credentials.NewTLS(dcs.TLSFiles{InsecureSkipVerify: true}, silent)
	require.NoError(t, err)
	require.True(t, conf.Insecure())
	verified := func(tls.ConnectionState) error { return nil }
	own := &tls.Config{InsecureSkipVerify: true, VerifyConnection: verified} //nolint:gosec // G402: what is tested
	require.False(t, credentials.FixedTLS(own).Insecure(), "the program verifies it itself")
}
