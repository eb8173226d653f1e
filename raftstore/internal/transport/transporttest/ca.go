// Package transporttest makes the certificates that tests of connections between
// nodes need.
package transporttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// TB is the part of testing.TB that the functions here need. They end the test
// when something fails.
type TB interface {
	Helper()
	TempDir() string
	Fatal(args ...any)
}

// CA is an authority made for one test.
type CA struct {
	Dir  string // of all files
	File string // the certificate of the authority
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Files are the settings of TLS of one node. They convert to those of package
// raftstore and of package transport.
type Files struct {
	CertFile, KeyFile, CAFile string
	Names                     map[string]string
}

// NewCA makes an authority in a directory of its own.
func NewCA(t TB) *CA {
	t.Helper()
	now := wallClock()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca := &CA{Dir: t.TempDir(), Cert: template, key: newKey(t)}
	ca.File = filepath.Join(ca.Dir, "ca.pem")
	der := ca.sign(t, template, &ca.key.PublicKey)
	writePEM(t, ca.File, "CERTIFICATE", der)
	var err error
	if ca.Cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return ca
}

// Issue writes a certificate for 127.0.0.1, edited, and returns the files. They
// are called name.
func (ca *CA) Issue(t TB, name string, edit func(*x509.Certificate)) *Files {
	t.Helper()
	now := wallClock()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if edit != nil {
		edit(template)
	}
	key := newKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := &Files{
		CertFile: filepath.Join(ca.Dir, name+".pem"), KeyFile: filepath.Join(ca.Dir, name+".key"), CAFile: ca.File,
	}
	writePEM(t, files.CertFile, "CERTIFICATE", ca.sign(t, template, &key.PublicKey))
	writePEM(t, files.KeyFile, "PRIVATE KEY", der)
	return files
}

// IssueAs returns the files of the node named id with the certificate of the node
// named as. The names of all nodes are in them.
func (ca *CA) IssueAs(t TB, id, as string, nodes []string) *Files {
	t.Helper()
	files := ca.Issue(t, id+"-as-"+as, func(x *x509.Certificate) { x.IPAddresses, x.DNSNames = nil, []string{NodeName(as)} })
	files.Names = map[string]string{}
	for _, node := range nodes {
		files.Names[node] = NodeName(node)
	}
	return files
}

// NodeName returns the name of a node in the certificates of [CA.IssueAs].
func NodeName(id string) string { return "node-" + id + ".test" }

func (ca *CA) sign(t TB, template *x509.Certificate, key *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, key, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wallClock returns the time by which certificates are judged.
func wallClock() time.Time {
	return time.Now() //nolint:forbidigo // it dates certificates and decides nothing
}
