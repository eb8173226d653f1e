package testcluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// dataDirs are the directories with a server's data, of any kind of server.
var dataDirs = []string{"data", "version-2"}

// Foreign returns the options of a server of another store of the same kind.
func (c *Cluster) Foreign() Options {
	o := c.o
	o.Nodes, o.Loopback, o.Domain = 1, true, ""
	return o
}

// Wipe ends all servers and starts them without data, at the same addresses.
func (c *Cluster) Wipe(ctx context.Context) error {
	err := c.offline(func(s *Server) error { return s.removeData() })
	if err == nil {
		err = c.startAll(ctx, false)
	}
	if err != nil {
		return err
	}
	return c.drv.started(ctx, c)
}

// Backup copies the data of all servers to dir. They are down meanwhile.
func (c *Cluster) Backup(ctx context.Context, dir string) error {
	if err := c.offline(func(s *Server) error { return s.copyData(s.dir, filepath.Join(dir, s.name)) }); err != nil {
		return err
	}
	return c.startAll(ctx, true)
}

// RestoreBackup gives all servers the data that Backup has copied to dir.
func (c *Cluster) RestoreBackup(ctx context.Context, dir string) error {
	err := c.offline(func(s *Server) error {
		if err := s.removeData(); err != nil {
			return err
		}
		return s.copyData(filepath.Join(dir, s.name), s.dir)
	})
	if err != nil {
		return err
	}
	return c.startAll(ctx, true)
}

// offline ends all servers and calls do for each.
func (c *Cluster) offline(do func(s *Server) error) error {
	servers := c.Servers()
	for _, s := range servers {
		s.Kill()
	}
	var faults []error
	for _, s := range servers {
		faults = append(faults, do(s))
	}
	return errors.Join(faults...)
}

// startAll starts all servers, and returns when they serve.
func (c *Cluster) startAll(ctx context.Context, join bool) error {
	for _, s := range c.Servers() {
		if err := s.start(join); err != nil {
			return err
		}
	}
	return c.Healthy(ctx)
}

func (s *Server) removeData() error {
	var faults []error
	for _, name := range dataDirs {
		faults = append(faults, os.RemoveAll(filepath.Join(s.dir, name)))
	}
	return errors.Join(faults...)
}

// copyData copies the directories with data that from has.
func (*Server) copyData(from, to string) error {
	for _, name := range dataDirs {
		if _, err := os.Stat(filepath.Join(from, name)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(from, name))); err != nil {
			return err
		}
	}
	return nil
}
