package fault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// ProxyOptions configures a [Proxy]. The zero value is ready for use.
type ProxyOptions struct {
	// Listen makes the listener, and another one after [Proxy.Refuse]. Nil means the
	// standard library's. [Host.Listen] makes one in another network.
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
	// Dial connects to the target. Nil means the standard library's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Proxy forwards TCP connections to one target while no fault is in force. It is safe for
// concurrent use.
type Proxy struct {
	o      ProxyOptions
	ctx    context.Context //nolint:containedctx // ends the goroutines of the Proxy
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	target   string
	addr     string
	ln       net.Listener
	links    map[*link]struct{}
	refuse   int
	silent   int
	reset    int
	drop     int
	delays   map[int]time.Duration
	rates    map[int]int
	next     int
	changed  chan struct{} // closed at every change of the faults
	accepted int64
}

// NewProxy listens on addr ("127.0.0.1:0" selects a port) and forwards to target. Callers
// must end it with Close.
func NewProxy(ctx context.Context, addr, target string, o ProxyOptions) (*Proxy, error) {
	if o.Listen == nil {
		o.Listen = (&net.ListenConfig{}).Listen
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	ln, err := o.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		o: o, target: target, addr: ln.Addr().String(), ln: ln, links: map[*link]struct{}{},
		delays: map[int]time.Duration{}, rates: map[int]int{}, changed: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.done.Add(1)
	go p.accept(ln)
	return p, nil
}

// Addr returns the address on which the Proxy listens. It never changes.
func (p *Proxy) Addr() string { return p.addr }

// Accepted returns the number of connections so far.
func (p *Proxy) Accepted() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Retarget makes new connections go to another address, and resets the present ones.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.resetAll()
}

// Close ends the Proxy, its connections and its goroutines.
func (p *Proxy) Close() error {
	p.cancel()
	p.mu.Lock()
	if p.ln != nil {
		CloseListener(p.ln)
	}
	p.change()
	p.mu.Unlock()
	p.resetAll()
	p.done.Wait()
	return nil
}

// Refuse makes the Proxy's address refuse connections, as without a listener, and resets
// existing ones. The lift function listens on the same address again. It fails, and may be
// called again, while another process has the port.
func (p *Proxy) Refuse() (lift func() error) {
	p.mu.Lock()
	p.refuse++
	if p.ln != nil {
		CloseListener(p.ln)
		p.ln = nil
	}
	p.mu.Unlock()
	p.resetAll()
	var once sync.Once
	return func() error {
		once.Do(func() {
			p.mu.Lock()
			p.refuse--
			p.mu.Unlock()
		})
		return p.listen()
	}
}

// listen opens the listener again, unless a fault forbids it.
func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse > 0 || p.ln != nil || p.ctx.Err() != nil {
		return nil
	}
	ln, err := p.o.Listen(p.ctx, "tcp", p.addr)
	if err != nil {
		return err
	}
	p.ln = ln
	p.done.Add(1)
	go p.accept(ln)
	return nil
}

// Silent accepts connections and forwards nothing in either direction. Pending data are
// delivered when the fault is lifted.
func (p *Proxy) Silent() (lift func()) { return p.count(&p.silent) }

// Reset resets every connection, existing ones at once, and new ones as soon as data are
// sent on them.
func (p *Proxy) Reset() (lift func()) {
	lift = p.count(&p.reset)
	p.resetAll()
	return lift
}

// DropReply delivers requests and drops the answers. A connection that lost data is reset
// when the fault is lifted, because the client could not interpret the data that follow.
func (p *Proxy) DropReply() (lift func()) { return p.count(&p.drop) }

// Delay delivers answers later by d. They are pipelined, so that a stream of answers takes d
// longer in total.
func (p *Proxy) Delay(d time.Duration) (lift func()) {
	return put(p, p.delays, d)
}

// Throttle forwards at most perSecond bytes per second on each connection, in each
// direction.
func (p *Proxy) Throttle(perSecond int) (lift func()) {
	return put(p, p.rates, max(perSecond, 1))
}

// put adds a value of a fault, until lift.
func put[V any](p *Proxy, in map[int]V, v V) (lift func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	id := p.next
	in[id] = v
	p.change()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(in, id)
		p.change()
	}
}

func (p *Proxy) count(n *int) (lift func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*n++
	p.change()
	var once sync.Once
	return func() {
		once.Do(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			*n--
			p.change()
		})
	}
}

// change wakes the connections that wait for the end of a fault. The caller holds p.mu.
func (p *Proxy) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) resetAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

func (p *Proxy) accept(ln net.Listener) {
	defer p.done.Done()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.accepted++
		target := p.target
		p.mu.Unlock()
		p.done.Add(1)
		go p.serve(c, target)
	}
}

// link is one connection with its counterpart at the target.
type link struct {
	client, server net.Conn
	ctx            context.Context //nolint:containedctx // ends with the connection
	cancel         context.CancelFunc
	lossy          bool // an answer was lost
}

// reset ends both sides with RST.
func (l *link) reset() {
	l.cancel()
	for _, c := range []net.Conn{l.client, l.server} {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // an error means that it is closed already
		}
		if c != nil {
			c.Close()
		}
	}
}

func (p *Proxy) serve(client net.Conn, target string) {
	defer p.done.Done()
	l := &link{client: client}
	l.ctx, l.cancel = context.WithCancel(p.ctx)
	defer l.cancel()
	dialled := make(chan struct{})
	// The client's side is open at once, so that Silent applies to an open connection. If
	// the target refuses, the client gets a reset.
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		l.reset()
		p.mu.Unlock()
	}()
	go func() {
		defer close(dialled)
		ctx, cancel := context.WithTimeout(l.ctx, time.Minute)
		defer cancel()
		c, err := p.o.Dial(ctx, "tcp", target)
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil || l.ctx.Err() != nil {
			if c != nil {
				c.Close()
			}
			l.reset()
			return
		}
		l.server = c
	}()
	<-dialled
	p.mu.Lock()
	server := l.server
	p.mu.Unlock()
	if server == nil {
		return
	}
	var both sync.WaitGroup
	both.Add(2)
	go func() { defer both.Done(); p.pump(l, client, server, true) }()
	go func() { defer both.Done(); p.pump(l, server, client, false) }()
	both.Wait()
}

// chunk is bytes with the time from which they may be delivered.
type chunk struct {
	data []byte
	due  time.Time
}

// pump forwards one direction. up means from client to server.
func (p *Proxy) pump(l *link, from, to net.Conn, up bool) {
	chunks := make(chan chunk, 1024)
	var writer sync.WaitGroup
	writer.Add(1)
	go func() {
		defer writer.Done()
		p.deliver(l, to, up, chunks)
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case chunks <- chunk{bytes.Clone(buf[:n]), time.Now().Add(p.delay(up))}:
			case <-l.ctx.Done():
				err = l.ctx.Err()
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.mu.Lock()
				l.reset()
				p.mu.Unlock()
			}
			break
		}
	}
	close(chunks)
	writer.Wait()
	if t, ok := to.(interface{ CloseWrite() error }); ok {
		_ = t.CloseWrite() // an error means that it is closed already
	}
}

func (p *Proxy) delay(up bool) (d time.Duration) {
	if up {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, each := range p.delays {
		d += each
	}
	return d
}

// deliver writes the data that is due, as far as the faults allow.
func (p *Proxy) deliver(l *link, to net.Conn, up bool, chunks <-chan chunk) {
	for c := range chunks {
		if !p.pass(l, c, up) {
			continue
		}
		if _, err := to.Write(c.data); err != nil {
			l.cancel()
		}
	}
}

// pass waits until c may be delivered, and reports whether it must be.
func (p *Proxy) pass(l *link, c chunk, up bool) bool {
	if wait := time.Until(c.due); wait > 0 {
		pause(l.ctx, wait)
	}
	for l.ctx.Err() == nil {
		p.mu.Lock()
		changed, silent := p.changed, p.silent > 0
		switch {
		case p.reset > 0:
			l.reset()
		case !silent && !up && p.drop > 0:
			l.lossy = true
		case !silent && l.lossy:
			l.reset() // the connection lost data before
		}
		drop := !silent && (l.lossy && !up || l.ctx.Err() != nil)
		rate := 0
		for _, r := range p.rates {
			rate = max(rate, r)
		}
		p.mu.Unlock()
		if drop {
			return false
		}
		if !silent {
			if rate > 0 {
				pause(l.ctx, time.Duration(len(c.data))*time.Second/time.Duration(rate))
			}
			return l.ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-l.ctx.Done():
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
