package consul

import (
	"os"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// FromClientConfig returns the settings of a client of Consul's own API: address,
// path prefix, datacenter, token, namespace, partition and TLS. The caller must set Root,
// and may set the other fields. WaitTime is left out, because it follows from Timing. The
// connections are this package's own, so that Transport is left out, with its Proxy and its
// dialers. With TLS a Transport that has a TLSClientConfig is refused. If a setting cannot
// be converted, the error is ErrInvalid and names each such setting. FromClientConfig does
// not read the environment, but api.DefaultConfig does.
func FromClientConfig(c *api.Config) (Config, error) {
	var faults backend.Faults
	out := fromClientConfig(&faults, *c)
	if c.HttpClient != nil {
		faults.Add("HttpClient cannot be converted, because package consul makes its own connections: leave it nil")
	}
	return out, faults.Err(backendName)
}

func fromClientConfig(faults *backend.Faults, c api.Config) Config {
	out := Config{
		PathPrefix: c.PathPrefix, Datacenter: c.Datacenter, Token: c.Token, TokenFile: c.TokenFile, Namespace: c.Namespace, Partition: c.Partition,
	}
	if out.TokenFile != "" {
		out.Token = "" // the file takes precedence, as in the API
	}
	address := c.Address
	if address == "" {
		address = "127.0.0.1:" + defaultPort
	}
	secure := c.Scheme == "https"
	if strings.HasPrefix(address, unixScheme) {
		out.Endpoints = []string{address}
	} else {
		if scheme, rest, given := strings.Cut(address, "://"); given {
			host, path, prefixed := strings.Cut(rest, "/")
			if prefixed && path != "" {
				out.PathPrefix = "/" + path
			}
			address = scheme + "://" + host
		}
		out.Endpoints, secure = faults.Schemes("Address", []string{address}, secure)
	}
	if c.HttpAuth != nil {
		faults.Add("HttpAuth (HTTP user and password) is not supported: use an ACL token")
	}
	if secure {
		if c.Transport != nil && c.Transport.TLSClientConfig != nil {
			faults.Add("Transport.TLSClientConfig cannot be converted: leave it nil, and set TLSConfig, or TLS of the result")
		}
		out.TLSFiles = fromTLSConfig(faults, c.TLSConfig)
	}
	return out
}

// fromTLSConfig converts the TLS settings of the API.
func fromTLSConfig(faults *backend.Faults, t api.TLSConfig) *dcs.TLSFiles {
	for name, set := range map[string]bool{"CAPath": t.CAPath != "", "CAPem": t.CAPem != nil, "CertPEM": t.CertPEM != nil, "KeyPEM": t.KeyPEM != nil} {
		if set {
			faults.Add("TLSConfig.%s is not supported: name files in CAFile, CertFile and KeyFile", name)
		}
	}
	name := t.Address
	if hosts, err := dcs.ParseHosts([]string{name}, ""); err == nil {
		name, _, _ = strings.Cut(hosts[0], ":")
	}
	return &dcs.TLSFiles{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile, ServerName: name, InsecureSkipVerify: t.InsecureSkipVerify}
}

// FromEnvironment returns a Config with the settings that Consul's own programs take
// from the environment: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE,
// CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT, CONSUL_CLIENT_CERT,
// CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME, CONSUL_NAMESPACE and CONSUL_PARTITION.
// CONSUL_HTTP_AUTH and CONSUL_CAPATH are ErrInvalid. No other function of this package
// reads the environment.
func FromEnvironment() (Config, error) {
	var faults backend.Faults
	c := fromEnvironment(&faults)
	return c, faults.Err(backendName)
}

func fromEnvironment(faults *backend.Faults) Config {
	c := api.Config{
		Address: os.Getenv(api.HTTPAddrEnvName), Token: os.Getenv(api.HTTPTokenEnvName), TokenFile: os.Getenv(api.HTTPTokenFileEnvName),
		Namespace: os.Getenv(api.HTTPNamespaceEnvName), Partition: os.Getenv(api.HTTPPartitionEnvName),
		TLSConfig: api.TLSConfig{
			Address: os.Getenv(api.HTTPTLSServerName), CAFile: os.Getenv(api.HTTPCAFile), CAPath: os.Getenv(api.HTTPCAPath),
			CertFile: os.Getenv(api.HTTPClientCert), KeyFile: os.Getenv(api.HTTPClientKey),
			InsecureSkipVerify: !faults.EnvBool(api.HTTPSSLVerifyEnvName, true),
		},
	}
	if faults.EnvBool(api.HTTPSSLEnvName, false) {
		c.Scheme = "https"
	}
	if os.Getenv(api.HTTPAuthEnvName) != "" {
		c.HttpAuth = &api.HttpBasicAuth{}
	}
	return fromClientConfig(faults, c)
}
