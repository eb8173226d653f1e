package etcd3

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

const exampleURL = "etcd3://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/pg/main"

func init() {
	dcs.Register("etcd3", backend.Driver[Config, *Backend]{Options: params, Config: configFromURL, Client: open})
}

var params = slices.Concat([]dcs.Param{
	{Name: "username", Usage: "etcd user to log in as; default: no login"},
	{Name: "password_file", Usage: "file with the user's password, read again for each login; needed with username"},
	{Name: "discovery", Usage: "false keeps to the hosts given and does not ask etcd for its members; default true"},
	backend.SlotsParam,
	backend.EnvParam("ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY, ETCDCTL_USER, …"),
	backend.WaitParam,
}, backend.SRVParams("_etcd-client._tcp (with TLS _etcd-client-ssl._tcp)"), backend.TLSParams())

// open returns a Backend after the store has answered one read.
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
	if t := faults.TLSFiles(u); t != nil {
		c.TLSFiles = t
	}
	if u.Params["srv"] != "" {
		c.SRV, c.SRVSuffix, c.Endpoints = u.Params["srv"], u.Params["srv_suffix"], nil
	} else if u.Params["srv_suffix"] != "" {
		faults.Add("option srv_suffix is set without srv: set both or neither")
	}
	hosts, root := faults.Place(u, exampleURL, c.SRV != "" || len(c.Endpoints) > 0)
	c.Root = root
	if len(hosts) > 0 {
		c.Endpoints = hosts
		if u.Params["srv"] == "" {
			c.SRV, c.SRVSuffix = "", ""
		}
	}
	faults.Bool(u, "wait", false)
	c.Slots = faults.Number(u, "slots", "16")
	c.NoDiscovery = !faults.Bool(u, "discovery", true)
	if (u.Params["password_file"] == "") != (u.Params["username"] == "") {
		faults.Add("options username and password_file must be set together: set both or neither")
	} else if u.Params["username"] != "" {
		c.Username, c.PasswordFile, c.Password = u.Params["username"], u.Params["password_file"], ""
	}
	return c, faults.Err(backendName)
}

// FromEnvironment returns a Config with the settings that etcdctl takes from the
// environment: ETCDCTL_ENDPOINTS, ETCDCTL_DISCOVERY_SRV, ETCDCTL_DISCOVERY_SRV_NAME,
// ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY, ETCDCTL_INSECURE_SKIP_TLS_VERIFY,
// ETCDCTL_USER and ETCDCTL_PASSWORD. The caller must set Root, and may set the other
// fields. If settings are invalid, the error is ErrInvalid and names all of them. No
// other function of this package reads the environment.
func FromEnvironment() (Config, error) {
	var faults backend.Faults
	c := fromEnvironment(&faults)
	return c, faults.Err(backendName)
}

func fromEnvironment(faults *backend.Faults) Config {
	c := Config{SRV: os.Getenv("ETCDCTL_DISCOVERY_SRV"), SRVSuffix: os.Getenv("ETCDCTL_DISCOVERY_SRV_NAME")}
	files := dcs.TLSFiles{
		CA: os.Getenv("ETCDCTL_CACERT"), Cert: os.Getenv("ETCDCTL_CERT"), Key: os.Getenv("ETCDCTL_KEY"),
		InsecureSkipVerify: faults.EnvBool("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", false),
	}
	secure := files != (dcs.TLSFiles{})
	if list := os.Getenv("ETCDCTL_ENDPOINTS"); list != "" && c.SRV == "" {
		c.Endpoints, secure = faults.Schemes("ETCDCTL_ENDPOINTS", strings.Split(list, ","), secure)
	}
	if secure {
		c.TLSFiles = &files
	}
	user, password, given := strings.Cut(os.Getenv("ETCDCTL_USER"), ":")
	if !given {
		password = os.Getenv("ETCDCTL_PASSWORD")
	}
	c.Username, c.Password = user, password
	if (user == "") != (password == "") {
		faults.Add("environment variables ETCDCTL_USER and ETCDCTL_PASSWORD must be set together: set both, or user:password in ETCDCTL_USER")
	}
	return c
}
