package testcluster

import (
	"context"
	"fmt"
	"time"
)

// reuniter is a kind whose servers, once they have taken each other for dead, may
// take a minute to find each other again.
type reuniter interface {
	// reunite makes them look for each other now, as far as they answer.
	reunite(ctx context.Context, c *Cluster)
}

// Healthy returns when every server serves and one of them leads. A cluster
// that does not get there is given up: [Shared] starts another one.
func (c *Cluster) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	help := time.Now().Add(time.Second)
	err := until(ctx, 25*time.Millisecond, func() error {
		leaders, err := c.ask(ctx)
		if err == nil && leaders != 1 {
			err = fmt.Errorf("%d of the servers lead", leaders)
		}
		if r, ok := c.drv.(reuniter); ok && err != nil && time.Now().After(help) {
			r.reunite(ctx, c)
			help = time.Now().Add(time.Second)
		}
		return err
	})
	if err != nil {
		return c.giveUp(fmt.Errorf("testcluster: %s is not healthy: %w%s", c.o.Kind, err, c.outputs()))
	}
	return nil
}

// until tries again and again, and returns the last try's error when ctx ends.
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

func (c *Cluster) giveUp(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ill = true
	return err
}

// usable reports whether the cluster was not given up.
func (c *Cluster) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.ill
}

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

// outputs is how each server stands, and what it printed last.
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

// Leader is the index of the server that leads, or -1.
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
