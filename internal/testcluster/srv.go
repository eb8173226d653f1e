package testcluster

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
)

// SRVResolver returns a resolver of the SRV records of one name, such as
// _etcd-client._tcp.example.test. It resolves no address. records is called for each
// query.
func SRVResolver(name string, records func() []net.SRV) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() { // until the client closes its end
			defer server.Close()
			var size [2]byte
			for {
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(server, query); err != nil {
					return
				}
				reply := srvReply(query, name, records())
				out := binary.BigEndian.AppendUint16(nil, uint16(len(reply)))
				if _, err := server.Write(append(out, reply...)); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

// srvReply returns the answer to a query with one question.
func srvReply(query []byte, name string, records []net.SRV) []byte {
	const header, tail, typeSRV = 12, 4, 33
	end := header
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 1 + tail
	known := strings.EqualFold(string(query[header:end-tail]), string(labels(name)))
	reply := append([]byte(nil), query[:end]...)
	reply[2], reply[3] = 0x84|query[2]&1, 0x80
	for i := 6; i < header; i++ {
		reply[i] = 0
	}
	if !known {
		reply[3] |= 3 // there is no such name
		return reply
	}
	binary.BigEndian.PutUint16(reply[6:], uint16(len(records)))
	for _, r := range records {
		target := labels(r.Target)
		reply = append(reply, 0xc0, header, 0, typeSRV, 0, 1, 0, 0, 0, 0)
		for _, n := range []uint16{uint16(6 + len(target)), r.Priority, r.Weight, r.Port} {
			reply = binary.BigEndian.AppendUint16(reply, n)
		}
		reply = append(reply, target...)
	}
	return reply
}

// labels returns a name in the encoding of DNS messages.
func labels(name string) []byte {
	var out []byte
	for _, part := range strings.Split(strings.Trim(name, "."), ".") {
		out = append(append(out, byte(len(part))), part...)
	}
	return append(out, 0)
}
