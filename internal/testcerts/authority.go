// Package testcerts issues TLS certificates for tests.
package testcerts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority issues the certificates of one cluster, valid and invalid ones, as files.
type Authority struct {
	dir   string
	hosts []string
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	pairs map[string]Pair
}

// Pair is the files of a certificate and its key.
type Pair struct{ Cert, Key string }

// NewAuthority creates an authority with its files below dir. The certificates are valid
// for servers at hosts, which are addresses or names, and at localhost.
func NewAuthority(dir string, hosts []string) (*Authority, error) {
	a := &Authority{dir: dir, hosts: append([]string{"localhost", "127.0.0.1"}, hosts...), pairs: map[string]Pair{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	now := time.Now()
	serial := big.NewInt(now.UnixNano())
	tmpl := &x509.Certificate{
		// ZooKeeper keeps one authority with the same name.
		SerialNumber: serial, Subject: pkix.Name{CommonName: "holdfast test authority", SerialNumber: serial.String()},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if err := write(a.File(), "CERTIFICATE", der); err != nil {
		return nil, err
	}
	for name, change := range map[string]func(*x509.Certificate){
		"server":  func(*x509.Certificate) {},
		"client":  func(*x509.Certificate) {},
		"expired": func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) },
		"other":   func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{OtherName}, nil },
	} {
		if err := a.issue(name, change); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *Authority) issue(name string, change func(*x509.Certificate)) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: ""},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range a.hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	p := Pair{filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+"-key.pem")}
	if err := write(p.Cert, "CERTIFICATE", der); err != nil {
		return err
	}
	a.pairs[name] = p
	return write(p.Key, "EC PRIVATE KEY", raw)
}

func write(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// Certificate returns the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// File returns the file of the authority's own certificate.
func (a *Authority) File() string { return filepath.Join(a.dir, "ca.pem") }

// Server returns the certificate of the servers.
func (a *Authority) Server() Pair { return a.pairs["server"] }

// Client returns a valid certificate of a client.
func (a *Authority) Client() Pair { return a.pairs["client"] }

// Expired returns a certificate that has expired.
func (a *Authority) Expired() Pair { return a.pairs["expired"] }

// OtherName is the only name that the certificate [Authority.Other] is valid for.
const OtherName = "other-name.test"

// Other returns a certificate for another host.
func (a *Authority) Other() Pair { return a.pairs["other"] }

// Config returns the TLS configuration of a client with the certificate p.
func (p Pair) Config(ca *Authority) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}
