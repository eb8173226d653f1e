package zookeeper

import (
	"context"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

const exampleURL = "zookeeper://10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181/pg/main"

func init() {
	dcs.Register("zookeeper", backend.Driver[Config, *Backend]{Options: params, Config: configFromURL, Client: open})
}

var params = append([]dcs.Param{
	{Name: "user", Usage: "digest user"},
	{Name: "password_file", Usage: "file with the password of user, read again for each session"},
	{Name: "auth_file", Usage: "file with further credentials, one entry a line, like digest:user:password; read again like password_file"},
	{Name: "acl", Usage: "ACL of all nodes that the Store makes, like world:anyone:cdrwa, several entries separated by commas (a comma in an id is written \\,); default: all permissions for the given credentials, or for all clients without them"},
	{Name: "tick", Usage: "the servers' tickTime, like 2s; default: derived from the sessions that the servers grant"},
	{Name: "max_buffer", Usage: "size of the longest answer of a server that is read, in bytes, like jute.maxbuffer of ZooKeeper's own clients; default 64 MiB"},
	backend.SlotsParam,
	backend.WaitParam,
}, backend.TLSParams()...)

// open returns a Backend that has learnt the servers' limits.
func open(ctx context.Context, c Config, wait bool) (*Backend, error) {
	return backend.Connect(ctx, c.Timing, c.Logger, wait, func() (*Backend, error) { return New(c) }, (*Backend).ready)
}

// FromConnectString returns a Config for a connect string of ZooKeeper's own
// clients, like "h1:2181,h2:2181/chroot". Config.Root is the chroot followed by
// root.
func FromConnectString(connect, root string) (Config, error) {
	var faults backend.Faults
	servers, chroot, _ := strings.Cut(connect, "/")
	c := Config{Root: strings.Trim(strings.Trim(chroot, "/")+"/"+strings.Trim(root, "/"), "/")}
	c.Endpoints = faults.Servers(strings.Split(servers, ","), defaultPort, "", "")
	c.Root = faults.Root(c.Root)
	return c, faults.Err(backendName)
}

func configFromURL(u *dcs.URL, o dcs.Options) (Config, error) {
	var faults backend.Faults
	c := Config{
		Timing: o.Timing, Logger: o.Logger, Observer: o.Observer, TLSFiles: faults.TLSFiles(u),
		User: u.Params["user"], PasswordFile: u.Params["password_file"], AuthFile: u.Params["auth_file"], ACL: u.Params["acl"],
	}
	c.Endpoints, c.Root = faults.Place(u, exampleURL, false)
	faults.Bool(u, "wait", false)
	c.Slots = faults.Number(u, "slots", "16")
	c.Tick = faults.Duration(u, "tick", "2s")
	c.MaxBuffer = faults.Number(u, "max_buffer", "67108864")
	return c, faults.Err(backendName)
}
