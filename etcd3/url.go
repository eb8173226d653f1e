package etcd3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

const exampleURL = "etcd3://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/pg/main"

func init() { dcs.Register("etcd3", driver{}) }

// driver opens etcd3://host:port,…/root?…
type driver struct{}

var params = []dcs.Param{
	{Name: "username", Usage: "etcd user to log in as; default: no login"},
	{Name: "password_file", Usage: "file with the user's password, read at Open; needed with username"},
	{Name: "tls_ca", Usage: "PEM file with the authority that signs the servers' certificates; switches TLS on"},
	{Name: "tls_cert", Usage: "PEM file with our certificate, where etcd demands one; switches TLS on"},
	{Name: "tls_key", Usage: "PEM file with the key of tls_cert"},
	{Name: "tls", Usage: "true switches TLS on with the system's authorities; default false"},
	{Name: "discovery", Usage: "false keeps to the hosts given and does not ask etcd for its members; default true"},
	{Name: "wait", Usage: "true waits at Open for a store that does not answer yet, until the context ends; default false"},
}

// Params implements dcs.Driver.
func (driver) Params() []dcs.Param { return params }

// Open implements dcs.Driver. It asks the store one question, so that a wrong
// address, certificate or password is found here.
func (driver) Open(ctx context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	c, err := configFromURL(u, o)
	if err != nil {
		return nil, err
	}
	b, err := New(c)
	if err != nil {
		return nil, err
	}
	if err := b.open(ctx, u.Params["wait"] == "true"); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// open asks one question, again and again where wait says so.
func (b *Backend) open(ctx context.Context, wait bool) error {
	for {
		one, cancel := context.WithTimeout(ctx, b.c.Timing.RetryTimeout)
		err := b.ready(one)
		cancel()
		if err == nil || !wait || ctx.Err() != nil || errors.Is(err, dcs.ErrUnauthorized) {
			return err
		}
		b.c.Logger.Warn("waiting for the store", "error", err)
		pause(ctx, min(b.c.Timing.LoopWait, time.Second))
	}
}

func configFromURL(u *dcs.URL, o dcs.Options) (Config, error) {
	c := Config{Endpoints: u.Hosts, Root: strings.Trim(u.Path, "/"), Timing: o.Timing, Logger: o.Logger, Observer: o.Observer}
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(u.Hosts) == 0 {
		add("the URL names no host: write it like %s", exampleURL)
	}
	if c.Root == "" {
		add("the URL names no root: it is the path, like %s", exampleURL)
	}
	boolean := func(name string, def bool) bool {
		switch v := u.Params[name]; v {
		case "":
			return def
		case "true", "false":
			return v == "true"
		default:
			add("option %s=%s: it must be true or false", name, v)
			return def
		}
	}
	boolean("wait", false)
	c.NoDiscovery = !boolean("discovery", true)
	c.Username = u.Params["username"]
	if file := u.Params["password_file"]; (file == "") != (c.Username == "") {
		add("options username and password_file belong together")
	} else if file != "" {
		secret, err := os.ReadFile(file) //nolint:gosec // G304: the user's own file
		if err != nil {
			add("option password_file: %w", err)
		}
		c.Password = strings.TrimRight(string(secret), "\r\n")
	}
	var err error
	if c.TLS, err = tlsFromURL(u, boolean("tls", false)); err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return c, &dcs.Error{Backend: backendName, Op: "Open", Kind: dcs.ErrInvalid, Err: errors.Join(faults...)}
	}
	return c, nil
}

func tlsFromURL(u *dcs.URL, on bool) (*tls.Config, error) {
	ca, cert, key := u.Params["tls_ca"], u.Params["tls_cert"], u.Params["tls_key"]
	if (cert == "") != (key == "") {
		return nil, errors.New("options tls_cert and tls_key belong together")
	}
	if ca == "" && cert == "" && !on {
		return nil, nil //nolint:nilnil // no TLS
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca) //nolint:gosec // G304: the user's own file
		if err != nil {
			return nil, fmt.Errorf("option tls_ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("option tls_ca: %s holds no certificate in PEM form", ca)
		}
	}
	if cert != "" {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return nil, fmt.Errorf("option tls_cert: %w", err)
		}
		// Read again for each connection, so that a new file is taken over.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
	}
	return conf, nil
}
