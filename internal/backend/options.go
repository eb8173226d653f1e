package backend

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

const (
	maxRoot  = 256  // bytes
	maxSlots = 4096 // each slot is a key in the store
)

// Faults collects the faults of settings, to report all of them at once.
type Faults []error

// Add adds one fault.
func (f *Faults) Add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// Err returns the ErrInvalid of all faults, or nil.
func (f Faults) Err(backend string) error {
	if len(f) == 0 {
		return nil
	}
	return &dcs.Error{Backend: backend, Op: "Open", Kind: dcs.ErrInvalid, Err: errors.Join(f...)}
}

// Root checks the root of a tree and returns it without outer slashes.
func (f *Faults) Root(root string) string {
	root = strings.Trim(root, "/")
	if err := dcs.CheckKey(root); err != nil || len(root) > maxRoot {
		f.Add(`Root %q must be a key of at most %d bytes, like "pg/main"`, root, maxRoot)
	}
	return root
}

// Timing checks the timing against the TTLs that the store grants.
func (f *Faults) Timing(t dcs.Timing, c dcs.Caps) dcs.Timing {
	t = t.WithDefaults()
	if err := t.Validate(c); err != nil {
		*f = append(*f, err)
	}
	return t
}

// TLSParams returns the URL options that TLSFiles reads.
func TLSParams() []dcs.Param {
	return []dcs.Param{
		{Name: "tls_ca", Usage: "PEM file with the authorities that sign the servers' certificates; switches TLS on"},
		{Name: "tls_cert", Usage: "PEM file with the client certificate, if the servers require one; switches TLS on"},
		{Name: "tls_key", Usage: "PEM file with the key of tls_cert"},
		{Name: "tls_key_password_file", Usage: "file with the password of an encrypted tls_key"},
		{Name: "tls_server_name", Usage: "name that the servers' certificates must be valid for, default: the host of each endpoint; switches TLS on"},
		{Name: "tls_insecure_skip_verify", Usage: "true accepts every certificate, so that another program can impersonate the store; default false; switches TLS on"},
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
		f.Add("Slots %d must be from 0, for a number that follows the load, to %d", n, maxSlots)
	}
}

// Place checks that a URL has a root, and hosts unless known reports that other settings name
// the servers. It returns both.
func (f *Faults) Place(u *dcs.URL, example string, known bool) (hosts []string, root string) {
	if len(u.Hosts) == 0 && !known {
		f.Add("the URL names no host: write it like %s", example)
	}
	root = strings.Trim(u.Path, "/")
	if root == "" {
		f.Add("the URL names no root: write it as the path, like %s", example)
	}
	return u.Hosts, root
}

// Bool returns an option that is true or false.
func (f *Faults) Bool(u *dcs.URL, name string, def bool) bool {
	switch v := u.Params[name]; v {
	case "":
		return def
	case "true", "false":
		return v == "true"
	default:
		f.Add("option %s=%s must be true or false", name, v)
		return def
	}
}

// Duration returns an option that is a duration, like example. It returns 0 without it.
func (f *Faults) Duration(u *dcs.URL, name, example string) time.Duration {
	v := u.Params[name]
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		f.Add("option %s=%s must be a duration like %s", name, v, example)
	}
	return d
}

// Number returns an option that is a number, like example. It returns 0 without it.
func (f *Faults) Number(u *dcs.URL, name, example string) int {
	v := u.Params[name]
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		f.Add("option %s=%s must be a number like %s", name, v, example)
	}
	return n
}

// Secret returns the secret in a setting named field, or in the file that field+"File" names.
// If both are empty, the secret is empty.
func (f *Faults) Secret(field, value, file string, log *slog.Logger) *credentials.Secret {
	if file == "" {
		return credentials.FixedSecret(value)
	}
	if value != "" {
		f.Add("%s and %sFile exclude each other: set one of them", field, field)
	}
	secret, err := credentials.NewSecret(file, credentials.Warn(log))
	if err != nil {
		f.Add("%sFile (%s_file): %w", field, strings.ToLower(field), err)
	}
	return secret
}

// TLSFiles returns the settings of TLSParams, or nil without them.
func (f *Faults) TLSFiles(u *dcs.URL) *dcs.TLSFiles {
	t := dcs.TLSFiles{
		CA: u.Params["tls_ca"], Cert: u.Params["tls_cert"], Key: u.Params["tls_key"], KeyPasswordFile: u.Params["tls_key_password_file"],
		ServerName: u.Params["tls_server_name"], InsecureSkipVerify: f.Bool(u, "tls_insecure_skip_verify", false),
	}
	if on := f.Bool(u, "tls", false); !on && t == (dcs.TLSFiles{}) {
		return nil
	}
	return &t
}

// TLS returns the TLS of the two settings of a Config for it, or nil without them.
func (f *Faults) TLS(conf *tls.Config, files *dcs.TLSFiles, log *slog.Logger) *credentials.TLS {
	var t *credentials.TLS
	switch {
	case conf != nil && files != nil:
		f.Add("TLS and TLSFiles exclude each other: set one of them")
		return nil
	case conf != nil:
		t = credentials.FixedTLS(conf)
	case files != nil:
		var err error
		if t, err = credentials.NewTLS(*files, log); err != nil {
			f.Add("%w", err)
			return nil
		}
	default:
		return nil
	}
	if t.Insecure() {
		log.Warn("TLS does not verify the servers' certificates: any program on the network can impersonate the store; remove InsecureSkipVerify (tls_insecure_skip_verify)")
	}
	return t
}
