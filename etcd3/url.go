package etcd3

import (
	"context"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

const exampleURL = "etcd3://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/pg/main"

func init() {
	dcs.Register("etcd3", remote.Driver[Config, *Backend]{Options: params, Config: configFromURL, Client: open})
}

var params = append([]dcs.Param{
	{Name: "username", Usage: "etcd user to log in as; default: no login"},
	{Name: "password_file", Usage: "file with the user's password, read at Open; needed with username"},
	{Name: "discovery", Usage: "false keeps to the hosts given and does not ask etcd for its members; default true"},
	remote.SlotsParam,
	remote.WaitParam,
}, remote.TLSParams()...)

// open makes a Backend that the store has answered one question.
func open(ctx context.Context, c Config, wait bool) (*Backend, error) {
	b, err := New(c)
	if err != nil {
		return nil, err
	}
	return remote.Opened(ctx, b, b.c.Timing, b.c.Logger, wait, b.ready)
}

func configFromURL(u *dcs.URL, o dcs.Options) (Config, error) {
	var faults remote.Faults
	c := Config{Timing: o.Timing, Logger: o.Logger, Observer: o.Observer, TLS: faults.TLS(u)}
	c.Endpoints, c.Root = faults.Place(u, exampleURL)
	faults.Bool(u, "wait", false)
	c.Slots = faults.Number(u, "slots", "16")
	c.NoDiscovery = !faults.Bool(u, "discovery", true)
	c.Username, c.Password = u.Params["username"], faults.Secret(u, "password_file")
	if (u.Params["password_file"] == "") != (c.Username == "") {
		faults.Add("options username and password_file belong together")
	}
	return c, faults.Err(backendName)
}
