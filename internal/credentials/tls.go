package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// TLS has the configuration of each connection to a store's servers.
type TLS struct {
	base *tls.Config
	ca   *Files[*x509.CertPool]   // nil: that of base
	pair *Files[*tls.Certificate] // nil: that of base
}

// FixedTLS returns the TLS whose connections all have conf.
func FixedTLS(conf *tls.Config) *TLS { return &TLS{base: conf.Clone()} }

// NewTLS reads the files of TLS. Its error names every fault.
func NewTLS(files dcs.TLSFiles, log *slog.Logger) (*TLS, error) {
	t := &TLS{base: &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: files.ServerName,
		InsecureSkipVerify: files.InsecureSkipVerify, //nolint:gosec // G402: the operator's own, and Insecure reports it
	}}
	if (files.Cert == "") != (files.Key == "") {
		return nil, errors.New("TLSFiles.Cert (tls_cert) and TLSFiles.Key (tls_key) belong together: set both or neither")
	}
	if files.KeyPasswordFile != "" && files.Key == "" {
		return nil, errors.New("TLSFiles.KeyPasswordFile (tls_key_password_file) is set without TLSFiles.Key (tls_key)")
	}
	var caErr, pairErr error
	if files.CA != "" {
		t.ca, caErr = NewFiles([]string{files.CA}, Warn(log), func(contents [][]byte) (*x509.CertPool, error) {
			return CertPool(contents[0], files.CA)
		})
		if caErr != nil {
			caErr = fmt.Errorf("TLSFiles.CA (tls_ca): %w", caErr)
		}
	}
	if files.Cert != "" {
		paths := []string{files.Cert, files.Key}
		if files.KeyPasswordFile != "" {
			paths = append(paths, files.KeyPasswordFile)
		}
		t.pair, pairErr = NewFiles(paths, Warn(log), func(contents [][]byte) (*tls.Certificate, error) {
			var password []byte
			if len(contents) > 2 {
				password = []byte(secretIn(contents[2]))
			}
			return KeyPair(contents[0], contents[1], password, files.Cert, files.Key)
		})
		if pairErr != nil {
			pairErr = fmt.Errorf("TLSFiles.Cert (tls_cert) and TLSFiles.Key (tls_key): %w", pairErr)
		}
	}
	return t, errors.Join(caErr, pairErr)
}

// Config returns the configuration of the next connection. The caller may
// change it.
func (t *TLS) Config() *tls.Config {
	conf := t.base.Clone()
	if t.ca != nil {
		conf.RootCAs = t.ca.Current()
	}
	if t.pair != nil {
		pair := t.pair.Current()
		// A certificate whose authority the server does not name is sent all
		// the same, so that the server's refusal gives the reason.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return conf
}

// Client does the handshake of TLS on raw, a connection to addr, whose host is
// the server's name unless t has another one. It closes raw if it fails.
func Client(ctx context.Context, raw net.Conn, t *TLS, addr string) (net.Conn, error) {
	conf := t.Config()
	var err error
	if conf.ServerName == "" {
		conf.ServerName, _, err = net.SplitHostPort(addr)
	}
	c := tls.Client(raw, conf)
	if err == nil {
		err = c.HandshakeContext(ctx)
	}
	if err != nil {
		_ = raw.Close() // nobody has used it
		return nil, err
	}
	return c, nil
}

// Insecure reports whether the servers' certificates are not verified.
func (t *TLS) Insecure() bool {
	return t.base.InsecureSkipVerify && t.base.VerifyConnection == nil && t.base.VerifyPeerCertificate == nil
}

// Warn returns a function that logs why changed files cannot be used.
func Warn(log *slog.Logger) func(error) {
	return func(err error) {
		log.Warn("changed credentials cannot be used; the last good ones stay in use", "error", err)
	}
}

// CertPool returns the authorities in the content of file.
func CertPool(content []byte, file string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return pool, nil
}

// KeyPair returns the certificate in the contents of certFile and keyFile.
// password is that of an encrypted key.
func KeyPair(cert, key, password []byte, certFile, keyFile string) (*tls.Certificate, error) {
	key, err := decryptKey(key, password)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no usable pair: %w", certFile, keyFile, err)
	}
	return &pair, nil
}
