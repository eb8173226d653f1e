package conformance

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// brokenDriver opens mem URLs under a scheme of its own, with one defect.
type brokenDriver struct {
	open func(ctx context.Context, u *dcs.URL, secret string, o dcs.Options) error
}

func (brokenDriver) Params() []dcs.Param {
	return []dcs.Param{{Name: "password_file", Usage: "file with a password"}}
}

func (d brokenDriver) Open(ctx context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	secret := ""
	if file := u.Params["password_file"]; file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		secret = strings.TrimSpace(string(text))
	}
	if err := d.open(ctx, u, secret, o); err != nil {
		return nil, err
	}
	s, err := dcs.Open(ctx, "mem://"+u.Hosts[0]+u.Path, o)
	if err != nil {
		return nil, err
	}
	return s.Unwrap(), nil
}

// urlMutants are drivers with one defect each, all of which Open/ByURL must detect. The
// first has no defect.
var urlMutants = map[string]brokenDriver{
	"mem-sound": {func(context.Context, *dcs.URL, string, dcs.Options) error { return nil }},
	"mem-other-tree": {func(_ context.Context, u *dcs.URL, _ string, _ dcs.Options) error {
		u.Path = "/other"
		return nil
	}},
	"mem-secret-in-error": {func(_ context.Context, _ *dcs.URL, secret string, _ dcs.Options) error {
		if secret != "" {
			return fmt.Errorf("password %q is refused", secret)
		}
		return nil
	}},
	"mem-secret-in-log": {func(_ context.Context, _ *dcs.URL, secret string, o dcs.Options) error {
		o.Logger.Info("opening", "password", secret)
		return nil
	}},
	"mem-slow": {func(ctx context.Context, _ *dcs.URL, _ string, o dcs.Options) error {
		select {
		case <-time.After(o.Timing.RetryTimeout + time.Minute):
		case <-ctx.Done():
		}
		return nil
	}},
}

func init() {
	for scheme, d := range urlMutants {
		dcs.Register(scheme, d)
	}
}

// TestSuiteCatchesDrivers runs Open/ByURL with the drivers of urlMutants.
func TestSuiteCatchesDrivers(t *testing.T) {
	c, ok := find("Open/ByURL")
	if !ok {
		t.Fatal("there is no case Open/ByURL")
	}
	for scheme := range urlMutants {
		t.Run(scheme, func(t *testing.T) {
			h := brokenHarness(scheme, func(testing.TB, *broken) {}).changed(func(s Store) Store {
				mem := s.URL
				s.URL = func(tb testing.TB) string { return strings.Replace(mem(tb), "mem://", scheme+"://", 1) }
				return s
			})
			if scheme != "mem-sound" {
				mustFail(t, h, c.Name)
			} else if o := runCase(t, h, c); o.verdict != passed {
				t.Fatalf("%s fails with a driver without a defect: %s", c.Name, first(o.failures))
			}
		})
	}
}
