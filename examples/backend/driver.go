//go:build linux

package filestore

import (
	"context"
	"errors"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Step 8: the URL. dcs.Open finds the driver by its scheme, refuses options that the driver
// does not declare, and fills the defaults of Options in.

func init() { dcs.Register("file", driver{}) }

// driver opens file:///directory.
type driver struct{}

// Params implements [dcs.Driver]. The store has no options of its own.
func (driver) Params() []dcs.Param { return nil }

// Open implements [dcs.Driver].
func (driver) Open(_ context.Context, u *dcs.URL, o dcs.Options) (dcs.Backend, error) {
	if len(u.Hosts) > 0 || u.Path == "" {
		return nil, &dcs.Error{Kind: dcs.ErrInvalid, Err: errors.New("the URL must have a path and no host: write it like file:///var/lib/app")}
	}
	return New(Config{Dir: u.Path, Timing: o.Timing})
}
