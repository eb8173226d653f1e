package consul

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

const exampleURL = "consul://10.0.0.1:8500,10.0.0.2:8500,10.0.0.3:8500/pg/main"

func init() {
	dcs.Register("consul", backend.Driver[Config, *Backend]{Options: params, Config: configFromURL, Client: open})
}

var params = slices.Concat([]dcs.Param{
	{Name: "token_file", Usage: "file with the ACL token, read again when Consul refuses it or denies a permission; default: no token"},
	{Name: "node", Usage: "catalog node that sessions belong to; default: the agent's own with one host, a separate one for the root with several, like holdfast-pg--main"},
	{Name: "checks", Usage: "health checks of that node whose failure ends sessions, with commas between them; default: none"},
	{Name: "lock_delay", Usage: "how long a key cannot be locked after Consul ended its session, like 15s; default 1ms"},
	{Name: "dc", Usage: "datacenter of the keys; default: the agent's"},
	{Name: "namespace", Usage: "Consul Enterprise namespace; default: none"},
	{Name: "partition", Usage: "Consul Enterprise admin partition; default: none"},
	backend.SlotsParam,
	{Name: "unix", Usage: "path of the socket of an agent on this machine, in place of hosts, like /run/consul.sock"},
	{Name: "path_prefix", Usage: "prefix of the path of each request, for an agent behind a proxy, like /consul"},
	backend.EnvParam("CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_HTTP_SSL, CONSUL_CACERT, CONSUL_NAMESPACE, …"),
	backend.WaitParam,
}, backend.SRVParams("_consul-http._tcp (with TLS _consul-https._tcp)"), backend.TLSParams())

// open returns a Backend after it has learnt the servers' limits and read a key.
func open(ctx context.Context, c Config, wait bool) (*Backend, error) {
	return backend.Connect(ctx, c.Timing, c.Logger, wait, func() (*Backend, error) { return New(c) }, (*Backend).ready)
}

func configFromURL(u *dcs.URL, o dcs.Options) (Config, error) {
	var faults backend.Faults
	var c Config
	if faults.Bool(u, "env", false) {
		c = fromEnvironment(&faults)
	}
	c.Timing, c.Logger, c.Observer = o.Timing, o.Logger, o.Observer
	c.place(u, &faults)
	if t := faults.TLSFiles(u); t != nil {
		c.TLSFiles = t
	}
	if file := u.Params["token_file"]; file != "" {
		c.Token, c.TokenFile = "", file
	}
	c.Node, c.Datacenter = u.Params["node"], u.Params["dc"]
	c.Namespace = cmp.Or(u.Params["namespace"], c.Namespace)
	c.Partition = cmp.Or(u.Params["partition"], c.Partition)
	c.PathPrefix = cmp.Or(u.Params["path_prefix"], c.PathPrefix)
	faults.Bool(u, "wait", false)
	c.Slots = faults.Number(u, "slots", "16")
	if v := u.Params["checks"]; v != "" {
		c.Checks = strings.Split(v, ",")
	}
	c.LockDelay = faults.Duration(u, "lock_delay", "15s")
	return c, faults.Err(backendName)
}

// place takes the endpoints and the root from a URL.
func (c *Config) place(u *dcs.URL, faults *backend.Faults) {
	unix, srv := u.Params["unix"], u.Params["srv"]
	hosts, root := faults.Place(u, exampleURL, unix != "" || srv != "" || len(c.Endpoints) > 0)
	c.Root = root
	if unix != "" {
		hosts = append([]string{unixScheme + unix}, hosts...)
	}
	if len(hosts) > 0 || srv != "" {
		c.Endpoints = hosts
	}
	c.SRV, c.SRVSuffix = srv, u.Params["srv_suffix"]
}
