package fault

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// Resolver is a name server on loopback for a few names, whose answers can be
// made to fail. Safe for concurrent use.
type Resolver struct {
	conn net.PacketConn
	done chan struct{}

	mu     sync.Mutex
	hosts  map[string][]netip.Addr
	failed map[string]int
	asked  int64
}

// NewResolver starts a name server that knows hosts. Close ends it.
func NewResolver(ctx context.Context, hosts map[string][]netip.Addr) (*Resolver, error) {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Resolver{conn: conn, done: make(chan struct{}), hosts: map[string][]netip.Addr{}, failed: map[string]int{}}
	for name, addrs := range hosts {
		r.Set(name, addrs...)
	}
	go r.serve()
	return r, nil
}

// Net is a resolver that asks this name server and no other, for
// [net.Dialer.Resolver].
func (r *Resolver) Net() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", r.conn.LocalAddr().String())
	}}
}

// Set changes the addresses of a name.
func (r *Resolver) Set(name string, addrs ...netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[canonical(name)] = addrs
}

// Fail makes the server answer SERVFAIL for a name until lift.
func (r *Resolver) Fail(name string) (lift func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name = canonical(name)
	r.failed[name]++
	var once sync.Once
	return func() {
		once.Do(func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.failed[name]--
		})
	}
}

// Asked is how many questions there have been.
func (r *Resolver) Asked() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// Close ends the server.
func (r *Resolver) Close() error {
	err := r.conn.Close()
	<-r.done
	return err
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func (r *Resolver) serve() {
	defer close(r.done)
	buf := make([]byte, 1500)
	for {
		n, from, err := r.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if reply := r.reply(buf[:n]); reply != nil {
			_, _ = r.conn.WriteTo(reply, from)
		}
	}
}

const (
	typeA, typeAAAA, classIN = 1, 28, 1

	codeOK, codeFailed, codeNoName = 0, 2, 3
)

// reply answers one question, RFC 1035 section 4.1, or nothing if the message
// is not one.
func (r *Resolver) reply(query []byte) []byte {
	name, kind, end, ok := question(query)
	if !ok {
		return nil
	}
	r.mu.Lock()
	r.asked++
	addrs, known := r.hosts[name]
	code := byte(codeOK)
	switch {
	case r.failed[name] > 0:
		code = codeFailed
	case !known:
		code = codeNoName
	}
	r.mu.Unlock()
	reply := append([]byte(nil), query[:end]...)
	reply[2], reply[3] = 0x84|query[2]&1, 0x80|code // an authoritative answer
	binary.BigEndian.PutUint16(reply[4:], 1)
	for i := 6; i < 12; i++ {
		reply[i] = 0
	}
	if code != codeOK {
		return reply
	}
	count := uint16(0)
	for _, a := range addrs {
		if (kind == typeA) != a.Is4() || kind != typeA && kind != typeAAAA {
			continue
		}
		data := a.AsSlice()
		reply = append(reply, 0xc0, 12) // the name, as in the question
		reply = binary.BigEndian.AppendUint16(reply, kind)
		reply = binary.BigEndian.AppendUint16(reply, classIN)
		reply = binary.BigEndian.AppendUint32(reply, 0)                 // not to be kept
		reply = binary.BigEndian.AppendUint16(reply, uint16(len(data))) //nolint:gosec // G115: 4 or 16
		reply = append(reply, data...)
		count++
	}
	binary.BigEndian.PutUint16(reply[6:], count)
	return reply
}

// question reads the one question of a query.
func question(q []byte) (name string, kind uint16, end int, ok bool) {
	if len(q) < 12 || q[2]&0x80 != 0 || binary.BigEndian.Uint16(q[4:]) != 1 {
		return "", 0, 0, false
	}
	var labels []string
	i := 12
	for {
		if i >= len(q) {
			return "", 0, 0, false
		}
		n := int(q[i])
		i++
		if n == 0 {
			break
		}
		if n > 63 || i+n > len(q) {
			return "", 0, 0, false
		}
		labels = append(labels, string(q[i:i+n]))
		i += n
	}
	if i+4 > len(q) || binary.BigEndian.Uint16(q[i+2:]) != classIN {
		return "", 0, 0, false
	}
	return canonical(strings.Join(labels, ".")), binary.BigEndian.Uint16(q[i:]), i + 4, true
}
