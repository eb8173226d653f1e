package testcluster

import (
	"context"
	"fmt"
	"time"
)

// rejoiner is implemented by drivers of stores whose servers can take a minute to rejoin
// after a partition.
type rejoiner interface {
	// rejoin makes the servers that answer contact each other now.
	rejoin(ctx context.Context, c *Cluster)
}

// Healthy waits until every server serves and one of them leads. If that takes more
// than a minute it returns an error, and [Shared] starts another cluster.
func (c *Cluster) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	help := time.Now().Add(time.Second)
	err := until(ctx, 25*time.Millisecond, func() error {
		leaders, err := c.ask(ctx)
		if err == nil && leaders != 1 {
			err = fmt.Errorf("%d servers lead, want 1", leaders)
		}
		if r, ok := c.drv.(rejoiner); ok && err != nil && time.Now().After(help) {
			r.rejoin(ctx, c)
			help = time.Now().Add(time.Second)
		}
		return err
	})
	if err != nil {
		return c.giveUp(fmt.Errorf("testcluster: %s is not healthy: %w%s", c.o.Kind, err, c.outputs()))
	}
	return nil
}

// until calls try until it succeeds, with pause between the calls. It returns the last
// error of try when ctx ends.
func until(ctx context.Context, pause time.Duration, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// giveUp marks the cluster as unhealthy and returns err.
func (c *Cluster) giveUp(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unhealthy = true
	return err
}

// usable reports whether giveUp was not called.
func (c *Cluster) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.unhealthy
}

// ask returns the number of servers that lead, or an error if a server does not serve.
func (c *Cluster) ask(ctx context.Context) (leaders int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, s := range c.Servers() {
		leads, err := c.drv.ready(ctx, c, s)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, err)
		}
		if leads {
			leaders++
		}
	}
	return leaders, nil
}

// outputs returns the state and the last output of each server.
func (c *Cluster) outputs() string {
	out := ""
	for _, s := range c.Servers() {
		text := s.Output()
		out += "\n" + s.name + s.ended() + ": " + text[max(0, len(text)-1000):]
	}
	return out
}

func (s *Server) ended() string {
	p := s.Process()
	if p == nil {
		return " (never started)"
	}
	select {
	case <-p.Done():
		return fmt.Sprintf(" (ended: %v)", p.Err())
	default:
		return ""
	}
}

// Leader returns the index of the server that leads, or -1.
func (c *Cluster) Leader(ctx context.Context) int {
	for i, s := range c.Servers() {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		leads, err := c.drv.ready(ctx, c, s)
		cancel()
		if err == nil && leads {
			return i
		}
	}
	return -1
}
