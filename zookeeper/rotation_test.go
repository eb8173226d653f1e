package zookeeper

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// No connection fails while authority and certificates are replaced.
func TestCertificateRotationCostsNoConnection(t *testing.T) {
	r := testcluster.NewRotation(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", r.Server())
	require.NoError(t, err)
	defer l.Close()
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
	b, err := New(Config{Endpoints: []string{l.Addr().String()}, Root: "r", TLSFiles: &r.Files})
	require.NoError(t, err)
	defer b.Close()
	connects := func() error {
		c, err := b.dial(t.Context(), l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
		return err
	}
	r.Each(t, func(step string) { require.NoError(t, connects(), step) })
	r.Back(t)
	require.ErrorContains(t, connects(), "unknown authority")
}
