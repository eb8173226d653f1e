package fault

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// A Resolver resolves a few names within this process, and can be made to fail. It is safe
// for concurrent use.
type Resolver struct {
	mu     sync.Mutex
	hosts  map[string][]netip.Addr
	failed map[string]int
	asked  int64
}

// NewResolver returns a Resolver that knows hosts.
func NewResolver(hosts map[string][]netip.Addr) *Resolver {
	r := &Resolver{hosts: map[string][]netip.Addr{}, failed: map[string]int{}}
	for name, addrs := range hosts {
		r.Set(name, addrs...)
	}
	return r
}

// Net returns a resolver that asks only this one, for [net.Dialer.Resolver]. It opens no
// sockets.
func (r *Resolver) Net() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go r.serve(server) // until the client closes its end
		return client, nil
	}}
}

// Set changes the addresses of a name.
func (r *Resolver) Set(name string, addrs ...netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[canonical(name)] = addrs
}

// Fail makes the Resolver answer SERVFAIL for a name until lift.
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

// Asked returns the number of questions so far.
func (r *Resolver) Asked() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// serve answers as a name server does over TCP, where the length precedes each message.
func (r *Resolver) serve(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		reply := r.reply(query)
		if reply == nil {
			return
		}
		out := binary.BigEndian.AppendUint16(nil, uint16(len(reply)))
		if _, err := c.Write(append(out, reply...)); err != nil {
			return
		}
	}
}

const (
	typeA, typeAAAA, classIN = 1, 28, 1

	codeOK, codeFailed, codeNoName = 0, 2, 3
)

// reply returns the answer to one question (RFC 1035, section 4.1), or nil if the message is
// no question.
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
		reply = binary.BigEndian.AppendUint32(reply, 0) // not to be cached
		reply = binary.BigEndian.AppendUint16(reply, uint16(len(data)))
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
