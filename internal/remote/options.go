package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const (
	maxRoot  = 256  // bytes
	maxSlots = 4096 // each one is a key in the store
)

// Faults collects what is wrong with settings, to tell all of it at once.
type Faults []error

// Add adds one fault.
func (f *Faults) Add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// Err is the ErrInvalid of all of them, or nil.
func (f Faults) Err(backend string) error {
	if len(f) == 0 {
		return nil
	}
	return &dcs.Error{Backend: backend, Op: "Open", Kind: dcs.ErrInvalid, Err: errors.Join(f...)}
}

// Common checks the settings that every backend with servers has: the
// endpoints, with their port filled in, and the root without outer slashes.
func (f *Faults) Common(endpoints []string, port, root string) ([]string, string) {
	if len(endpoints) == 0 {
		f.Add(`Endpoints is empty: name at least one server, like "10.0.0.1:%s"`, port)
	}
	full, err := dcs.ParseHosts(endpoints, port)
	if err != nil {
		f.Add("Endpoints: %w", err)
	}
	root = strings.Trim(root, "/")
	if err := dcs.CheckKey(root); err != nil || len(root) > maxRoot {
		f.Add(`Root %q: it is a key of at most %d bytes, like "pg/main"`, root, maxRoot)
	}
	return full, root
}

// Timing checks the timing against what the store grants.
func (f *Faults) Timing(t dcs.Timing, c dcs.Caps) dcs.Timing {
	t = t.WithDefaults()
	if err := t.Validate(c); err != nil {
		*f = append(*f, err)
	}
	return t
}

// TLSParams are the URL options that TLS reads.
func TLSParams() []dcs.Param {
	return []dcs.Param{
		{Name: "tls_ca", Usage: "PEM file with the authority that signs the servers' certificates; switches TLS on"},
		{Name: "tls_cert", Usage: "PEM file with our certificate, where the servers demand one; switches TLS on"},
		{Name: "tls_key", Usage: "PEM file with the key of tls_cert"},
		{Name: "tls", Usage: "true switches TLS on with the system's authorities; default false"},
	}
}

// WaitParam is the URL option that makes Open wait.
var WaitParam = dcs.Param{Name: "wait", Usage: "true waits at Open for a store that does not answer yet, until the context ends; default false"}

// SlotsParam is the URL option for the number of Commits in flight.
var SlotsParam = dcs.Param{Name: "slots", Usage: "Commits in flight at once, like 16; further ones wait; default: follows the load, from 8 to 64"}

// Slots checks the number of Commits in flight.
func (f *Faults) Slots(n int) {
	if n < 0 || n > maxSlots {
		f.Add("Slots %d: it is between 0, for a number that follows the load, and %d", n, maxSlots)
	}
}

// Place checks that a URL names hosts and a root, and returns both.
func (f *Faults) Place(u *dcs.URL, example string) (hosts []string, root string) {
	if len(u.Hosts) == 0 {
		f.Add("the URL names no host: write it like %s", example)
	}
	root = strings.Trim(u.Path, "/")
	if root == "" {
		f.Add("the URL names no root: it is the path, like %s", example)
	}
	return u.Hosts, root
}

// Bool reads an option that is true or false.
func (f *Faults) Bool(u *dcs.URL, name string, def bool) bool {
	switch v := u.Params[name]; v {
	case "":
		return def
	case "true", "false":
		return v == "true"
	default:
		f.Add("option %s=%s: it must be true or false", name, v)
		return def
	}
}

// Duration reads an option that is a duration, like example; 0 without it.
func (f *Faults) Duration(u *dcs.URL, name, example string) time.Duration {
	v := u.Params[name]
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		f.Add("option %s=%s: it is a duration like %s", name, v, example)
	}
	return d
}

// Number reads an option that is a number, like example; 0 without it.
func (f *Faults) Number(u *dcs.URL, name, example string) int {
	v := u.Params[name]
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		f.Add("option %s=%s: it is a number like %s", name, v, example)
	}
	return n
}

// Secret reads the file that an option names: a secret, without the end of its
// line. Empty without the option.
func (f *Faults) Secret(u *dcs.URL, name string) string {
	file := u.Params[name]
	if file == "" {
		return ""
	}
	secret, err := ReadSecret(file)
	if err != nil {
		f.Add("option %s: %w", name, err)
	}
	return secret
}

// ReadSecret reads a file that holds a secret, without the end of its line.
func ReadSecret(file string) (string, error) {
	secret, err := os.ReadFile(file) //nolint:gosec // G304: the user's own file
	return strings.TrimRight(string(secret), "\r\n"), err
}

// TLS makes the settings of TLSParams; nil without them.
func (f *Faults) TLS(u *dcs.URL) *tls.Config {
	ca, cert, key := u.Params["tls_ca"], u.Params["tls_cert"], u.Params["tls_key"]
	on := f.Bool(u, "tls", false)
	if (cert == "") != (key == "") {
		f.Add("options tls_cert and tls_key belong together")
		return nil
	}
	if ca == "" && cert == "" && !on {
		return nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca) //nolint:gosec // G304: the user's own file
		if err != nil {
			f.Add("option tls_ca: %w", err)
			return nil
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			f.Add("option tls_ca: %s holds no certificate in PEM form", ca)
		}
	}
	if cert != "" {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			f.Add("option tls_cert: %w", err)
		}
		// Read again for each connection, so that a new file is taken over.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
	}
	return conf
}
