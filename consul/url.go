package consul

import (
	"context"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

const exampleURL = "consul://10.0.0.1:8500,10.0.0.2:8500,10.0.0.3:8500/pg/main"

func init() {
	dcs.Register("consul", remote.Driver[Config, *Backend]{Options: params, Config: configFromURL, Client: open})
}

var params = append([]dcs.Param{
	{Name: "token_file", Usage: "file with the ACL token, read again when Consul refuses it; default: CONSUL_HTTP_TOKEN of the environment, if set"},
	{Name: "node", Usage: "catalog node that sessions belong to; default: the agent's own with one host, one of the root's own with several, like holdfast-pg--main"},
	{Name: "checks", Usage: "health checks of that node which sessions end with, with commas between them; default: none"},
	{Name: "lock_delay", Usage: "how long nobody gets a key after Consul ended its session, like 15s; default 1ms"},
	{Name: "dc", Usage: "datacenter of the keys; default: the agent's"},
	{Name: "namespace", Usage: "Consul Enterprise namespace; default: none"},
	{Name: "partition", Usage: "Consul Enterprise admin partition; default: none"},
	remote.SlotsParam,
	remote.WaitParam,
}, remote.TLSParams()...)

// open makes a Backend that knows the servers' limits.
func open(ctx context.Context, c Config, wait bool) (*Backend, error) {
	b, err := New(c)
	if err != nil {
		return nil, err
	}
	return remote.Opened(ctx, b, b.c.Timing, b.c.Logger, wait, b.ready)
}

func configFromURL(u *dcs.URL, o dcs.Options) (Config, error) {
	var faults remote.Faults
	c := Config{
		Timing: o.Timing, Logger: o.Logger, Observer: o.Observer, TLS: faults.TLS(u),
		TokenFile: u.Params["token_file"], Node: u.Params["node"],
		Datacenter: u.Params["dc"], Namespace: u.Params["namespace"], Partition: u.Params["partition"],
	}
	c.Endpoints, c.Root = faults.Place(u, exampleURL)
	faults.Bool(u, "wait", false)
	c.Slots = faults.Number(u, "slots", "16")
	if v := u.Params["checks"]; v != "" {
		c.Checks = strings.Split(v, ",")
	}
	c.LockDelay = faults.Duration(u, "lock_delay", "15s")
	return c, faults.Err(backendName)
}
