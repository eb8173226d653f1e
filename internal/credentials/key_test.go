package credentials

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return data
}

// Keys are read as openssl encrypts them; all files of testdata hold one key.
func TestEncryptedKeys(t *testing.T) {
	cert := read(t, "cert.pem")
	for _, name := range []string{"aes256.key", "aes128.key", "des3.key", "legacy.key"} {
		pair, err := KeyPair(cert, read(t, name), []byte("secret"), "cert.pem", name)
		require.NoError(t, err, name)
		require.NotNil(t, pair.PrivateKey)
		_, err = KeyPair(cert, read(t, name), nil, "cert.pem", name)
		require.ErrorContains(t, err, "tls_key_password_file", name)
		_, err = KeyPair(cert, read(t, name), []byte("wrong"), "cert.pem", name)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "wrong\"")
	}
	_, err := KeyPair(cert, read(t, "plain.key"), nil, "cert.pem", "plain.key")
	require.NoError(t, err)
	_, err = KeyPair(cert, read(t, "plain.key"), []byte("not needed"), "cert.pem", "plain.key")
	require.NoError(t, err)
	_, err = KeyPair(cert, read(t, "scrypt.key"), []byte("secret"), "cert.pem", "scrypt.key")
	require.ErrorContains(t, err, "not supported")
	_, err = KeyPair(cert, []byte("no PEM"), nil, "cert.pem", "x.key")
	require.ErrorContains(t, err, "x.key")
}
