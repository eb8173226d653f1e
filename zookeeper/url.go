package zookeeper

import (
	"context"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/remote"
)

const exampleURL = "zookeeper://10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181/pg/main"

func init() { dcs.Register("zookeeper", driver{}) }

// driver opens zookeeper://host:port,…/root?…
type driver struct{}

var params = append([]dcs.Param{
	{Name: "user", Usage: "digest user"},
	{Name: "password_file", Usage: "file with the password of user"},
	{Name: "acl", Usage: "who may do what with all that we make, like world:anyone:cdrwa, several with commas between them; default: all for user, or for everybody without one"},
	{Name: "tick", Usage: "the servers' tickTime, like 2s; default: measured by the sessions that they grant"},
	remote.WaitParam,
}, remote.TLSParams()...)

// Params implements dcs.Driver.
func (driver) Params() []dcs.Param { return params }

// Open implements dcs.Driver. It asks the store for the sessions that it
// grants and for a key, so that a wrong address, certificate or password is
// found here.
func (driver) Open(ctx context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	c, err := configFromURL(u, o)
	if err != nil {
		return nil, err
	}
	b, err := open(ctx, c, u.Params["wait"] == "true")
	if err != nil {
		return nil, err
	}
	return b, nil
}

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
		User: u.Params["user"], Password: faults.Secret(u, "password_file"), ACL: u.Params["acl"],
	}
	c.Endpoints, c.Root = faults.Place(u, exampleURL)
	faults.Bool(u, "wait", false)
	if v := u.Params["tick"]; v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			faults.Add("option tick=%s: it is a duration like 2s", v)
		}
		c.Tick = d
	}
	return c, faults.Err(backendName)
}
