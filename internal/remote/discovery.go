package remote

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

// SRVParams returns the URL options of a discovery by DNS.
func SRVParams(service string) []dcs.Param {
	return []dcs.Param{
		{Name: "srv", Usage: "domain whose SRV records of " + service + " name the servers, in place of hosts"},
		{Name: "srv_suffix", Usage: "suffix of the service's name in srv, after a hyphen; default: none"},
	}
}

// SRV is a discovery of servers by the records of DNS.
type SRV struct {
	Service, Suffix, Domain string
	Resolver                *net.Resolver // nil: the system's
}

// LookUp returns the servers as host:port, the best first.
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
		err = errors.New("there is none")
	}
	if err != nil {
		return nil, fmt.Errorf("the SRV records of %s: %w", name, err)
	}
	return hosts, nil
}

// Seeds looks the servers up within limit, for a backend that is made without a
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

// Servers checks the servers that the settings name: a list, or a domain.
func (f *Faults) Servers(endpoints []string, port, srv, suffix string) []string {
	switch {
	case srv == "" && suffix != "":
		f.Add("SRVSuffix (srv_suffix) is set without SRV (srv)")
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

// Schemes takes http:// and https:// off a list of servers, and reports whether
// they are reached by TLS. tls says whether other settings switch TLS on.
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
			f.Add("%s: the scheme of a server is http or https", field)
			continue
		}
		hosts = append(hosts, strings.TrimSuffix(host, "/"))
	}
	if plain && (secure || tls) {
		f.Add("%s: a server has http:// although others or the settings of TLS switch TLS on", field)
	}
	return hosts, secure || tls
}

// EnvBool reads a variable of the environment that is true or false, as Go's
// strconv does.
func (f *Faults) EnvBool(name string, def bool) bool {
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		f.Add("environment variable %s: it must be true or false", name)
	}
	return b
}
