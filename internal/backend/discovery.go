package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// EnvParam returns the URL option that takes settings from the environment.
func EnvParam(variables string) dcs.Param {
	return dcs.Param{Name: "env", Usage: "true takes settings that the URL leaves out from the environment: " + variables + "; default false"}
}

// SRVParams returns the URL options for the discovery of servers by DNS.
func SRVParams(service string) []dcs.Param {
	return []dcs.Param{
		{Name: "srv", Usage: "domain whose SRV records of " + service + " list the servers, instead of hosts"},
		{Name: "srv_suffix", Usage: "suffix of the service's name in srv, after a hyphen; default: none"},
	}
}

// SRV discovers servers by SRV records of DNS.
type SRV struct {
	Service, Suffix, Domain string
	Resolver                *net.Resolver // nil means the system's
}

// LookUp returns the servers as host:port, the preferred ones first.
func (s SRV) LookUp(ctx context.Context) ([]string, error) {
	service := s.Service
	if s.Suffix != "" {
		service += "-" + s.Suffix
	}
	r := s.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	name, records, err := r.LookupSRV(ctx, service, "tcp", s.Domain)
	if err != nil {
		return nil, fmt.Errorf("looking up the SRV records of _%s._tcp.%s: %w", service, s.Domain, err)
	}
	list := make([]string, len(records))
	for i, one := range records {
		list[i] = strings.TrimSuffix(one.Target, ".") + ":" + strconv.Itoa(int(one.Port))
	}
	hosts, err := dcs.ParseHosts(list, "")
	if err == nil && len(hosts) == 0 {
		err = errors.New("no server is listed")
	}
	if err != nil {
		return nil, fmt.Errorf("the SRV records of %s: %w", name, err)
	}
	return hosts, nil
}

// Seeds looks the servers up within limit. It is for a backend that is created without a
// context.
func (s SRV) Seeds(backend string, limit time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	hosts, err := s.LookUp(ctx)
	if err != nil {
		return nil, &dcs.Error{Backend: backend, Op: "Open", Kind: dcs.ErrUnavailable, Err: err}
	}
	return hosts, nil
}

// Servers checks the servers in the settings, which are a list or a domain.
func (f *Faults) Servers(endpoints []string, port, srv, suffix string) []string {
	switch {
	case srv == "" && suffix != "":
		f.Add("SRVSuffix (srv_suffix) is set without SRV (srv): set SRV, or leave SRVSuffix out")
	case srv != "" && len(endpoints) > 0:
		f.Add("Endpoints and SRV (srv) exclude each other: set one of them")
	case srv != "":
		return nil
	}
	if len(endpoints) == 0 {
		f.Add(`Endpoints is empty: name at least one server, like "10.0.0.1:%s"`, port)
	}
	full, err := dcs.ParseHosts(endpoints, port)
	if err != nil {
		f.Add("Endpoints: %w", err)
	}
	return full
}

// Schemes removes http:// and https:// from a list of servers, and reports whether the
// servers are reached by TLS. tls reports that other settings switch TLS on.
func (f *Faults) Schemes(field string, list []string, tls bool) (hosts []string, secure bool) {
	plain := false
	for _, one := range list {
		host := strings.TrimSpace(one)
		scheme, rest, given := strings.Cut(host, "://")
		switch {
		case given && scheme == "http":
			host, plain = rest, true
		case given && scheme == "https":
			host, secure = rest, true
		case given:
			f.Add("%s: the scheme of a server must be http or https", field)
			continue
		}
		hosts = append(hosts, strings.TrimSuffix(host, "/"))
	}
	if plain && (secure || tls) {
		f.Add("%s: a server has http:// although another one or the TLS settings switch TLS on: use https://, or no scheme", field)
	}
	return hosts, secure || tls
}

// EnvBool returns the value of an environment variable that is true or false, as parsed by
// strconv.ParseBool.
func (f *Faults) EnvBool(name string, def bool) bool {
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		f.Add("environment variable %s must be true or false", name)
	}
	return b
}
