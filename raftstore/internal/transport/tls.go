package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	files "github.com/holdfast-dcs/holdfast/internal/credentials"
)

// The ALPN names distinguish Raft's connections from calls before a byte is read.
const (
	alpnRaftPrefix  = "holdfast-raft/"
	alpnCallPrefix  = "holdfast-call/"
	alpnSetupPrefix = "holdfast-setup/"

	alpnClientPrefix = "holdfast-client/"
)

// alpn returns the protocol name of a kind of connection.
func alpn(k Kind, version byte) string {
	prefix := alpnCallPrefix
	switch k {
	case KindRaft:
		prefix = alpnRaftPrefix
	case KindSetup:
		prefix = alpnSetupPrefix
	case KindClient:
		prefix = alpnClientPrefix
	case KindCall:
	}
	return fmt.Sprintf("%s%d", prefix, version)
}

// alpnKind is alpn's inverse; 0 for a foreign name.
func alpnKind(proto string) Kind {
	switch {
	case strings.HasPrefix(proto, alpnRaftPrefix):
		return KindRaft
	case strings.HasPrefix(proto, alpnCallPrefix):
		return KindCall
	case strings.HasPrefix(proto, alpnSetupPrefix):
		return KindSetup
	case strings.HasPrefix(proto, alpnClientPrefix):
		return KindClient
	}
	return 0
}

// credentials are the certificate of a node or client and the authority that it
// trusts, read again when the files change, so that a certificate is renewed
// without a restart. New files that do not fit are reported and left alone.
type credentials struct {
	trust *files.Files[trust]
}

// trust is the content of the files.
type trust struct {
	cert *tls.Certificate
	pool *x509.CertPool
}

// newCredentials reads and checks the files: a certificate that the other
// nodes would refuse is an error here, not at their end later. name is the one that they
// expect of it.
func newCredentials(t TLS, name string, warn func(string, error)) (*credentials, error) {
	return readCredentials(t, warn, func(cert *tls.Certificate, pool *x509.CertPool) error {
		if err := wouldVerify(t, cert, pool, "server and client use", x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth); err != nil {
			return err
		}
		if err := cert.Leaf.VerifyHostname(name); err != nil {
			return unusable("TLS.CertFile %s does not name this node's address %q: issue it with that host or IP as a subject alternative name, or set TLS.Names: %w", t.CertFile, name, err)
		}
		return nil
	})
}

// newClientCredentials is newCredentials for a program that is no node. Its
// certificate needs no name.
func newClientCredentials(t TLS, warn func(string, error)) (*credentials, error) {
	return readCredentials(t, warn, func(cert *tls.Certificate, pool *x509.CertPool) error {
		return wouldVerify(t, cert, pool, "client use", x509.ExtKeyUsageClientAuth)
	})
}

func readCredentials(t TLS, warn func(string, error), check func(*tls.Certificate, *x509.CertPool) error) (*credentials, error) {
	report := func(err error) { warn("changed TLS files are not usable; the old ones stay in use", err) }
	read, err := files.NewFiles([]string{t.CertFile, t.KeyFile, t.CAFile}, report, func(contents [][]byte) (trust, error) {
		pool, err := files.CertPool(contents[2], t.CAFile)
		if err != nil {
			return trust{}, unusable("TLS.CAFile %w", err)
		}
		cert, err := files.KeyPair(contents[0], contents[1], nil, t.CertFile, t.KeyFile)
		if err != nil {
			return trust{}, unusable("TLS.CertFile and TLS.KeyFile: %w", err)
		}
		return trust{cert, pool}, check(cert, pool)
	})
	var options *OptionsError
	switch {
	case errors.As(err, &options):
		return nil, err
	case err != nil:
		return nil, unusable("a file of TLS.CertFile, TLS.KeyFile and TLS.CAFile cannot be read: %w", err)
	}
	return &credentials{read}, nil
}

// wouldVerify reports whether the other nodes would accept cert for uses.
func wouldVerify(t TLS, cert *tls.Certificate, pool *x509.CertPool, wanted string, uses ...x509.ExtKeyUsage) error {
	chain := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain.AddCert(c)
		}
	}
	for _, use := range uses {
		_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain, KeyUsages: []x509.ExtKeyUsage{use}})
		if err != nil {
			return unusable("TLS.CertFile %s would be refused by the other nodes (it must be in date, signed by %s, for %s): %w", t.CertFile, t.CAFile, wanted, err)
		}
	}
	return nil
}

// current returns the credentials to use now.
func (c *credentials) current() (*tls.Certificate, *x509.CertPool) {
	now := c.trust.Current()
	return now.cert, now.pool
}

// client is the configuration for dialling a node whose certificate must be valid
// for name.
func (c *credentials) client(name string, k Kind, version byte) *tls.Config {
	cert, pool := c.current()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      pool,
		Certificates: []tls.Certificate{*cert},
		ServerName:   name,
		NextProtos:   []string{alpn(k, version)},
	}
}

// server is the configuration for accepted connections.
func (c *credentials) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			cert, pool := c.current()
			config := &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{*cert},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    pool,
				// Tickets would let a certificate outlive its authority.
				SessionTicketsDisabled: true,
			}
			// Every version is let in here, so that the hello can name both
			// versions instead of TLS failing without a word.
			for _, proto := range info.SupportedProtos {
				if alpnKind(proto) != 0 {
					config.NextProtos = []string{proto}
					return config, nil
				}
			}
			return nil, fmt.Errorf("%w: it offers none of this store's protocols", ErrPeerRefused)
		},
	}
}

// provesID returns an error unless the certificate on conn, which is signed by the
// authority, is valid for the name of node id. Without TLS nothing is proven. A node
// that is not of the cluster may ask on a setup connection how to join it: nothing is
// done on its word.
func (n *Network) provesID(conn net.Conn, k Kind, id string) error {
	secured, ok := conn.(*tls.Conn)
	if !ok {
		return nil
	}
	names := n.certNames(id)
	if len(names) == 0 && k == KindSetup {
		return nil
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: node %q is not a node of the cluster", ErrPeerRefused, id)
	}
	certs := secured.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return fmt.Errorf("%w: node %q has no certificate", ErrPeerRefused, id)
	}
	if !forServers(certs[0]) {
		return fmt.Errorf("%w: its certificate is for client use only, which no node's is: a program that is no node may make calls and nothing else", ErrPeerRefused)
	}
	var err error
	for _, name := range names {
		if err = certs[0].VerifyHostname(name); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: its certificate does not prove that it is node %q: the certificate must be valid for %q (TLS.Names, or the host of its address): %w", ErrPeerRefused, id, names[0], err)
}

// forServers reports whether a certificate is for server use. The certificate of
// a program on a node's machine may be valid for the node's name; if it was
// issued for client use only, it never proves to be the node's.
func forServers(cert *x509.Certificate) bool {
	if len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// answerPlaintext informs a node without TLS that this one has it: crypto/tls hangs
// up on plaintext without a word.
func answerPlaintext(err error) {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || record.Conn == nil || record.RecordHeader[0]&helloMarkerMask != helloMarker {
		return
	}
	// A fatal alert, "protocol version", as a TLS record. It is a courtesy:
	// if it does not arrive, the other node reports a hang-up.
	_, _ = record.Conn.Write([]byte{tlsAlert, 3, 3, 0, 2, 2, 70})
}

// explainTLS marks the failures that an operator must correct. k is 0 while it is not
// known.
func explainTLS(k Kind, err error) error {
	own, refused := k.refused()
	if err == nil {
		return nil
	}
	var (
		record    tls.RecordHeaderError
		verify    *tls.CertificateVerificationError
		remote    *net.OpError
		fromOther = errors.As(err, &remote) && remote.Op == "remote error"
	)
	switch {
	case errors.As(err, &record):
		return fmt.Errorf("%w: it does not speak TLS and %s does: set TLS on all nodes or on none: %w", refused, own, err)
	case errors.As(err, &verify):
		return fmt.Errorf("%w: its certificate is not accepted here: %w", refused, err)
	case fromOther:
		return fmt.Errorf("%w: it does not accept the certificate or the protocol of %s: %w", refused, own, err)
	}
	return fmt.Errorf("TLS: %w", err)
}
