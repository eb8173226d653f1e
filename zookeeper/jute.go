package zookeeper

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// encoder appends the fields of a request in ZooKeeper's encoding.
type encoder []byte

func (e *encoder) int(v int32) { *e = binary.BigEndian.AppendUint32(*e, uint32(v)) }

func (e *encoder) bool(v bool) {
	if v {
		*e = append(*e, 1)
		return
	}
	*e = append(*e, 0)
}

func (e *encoder) string(s string) {
	e.int(int32(len(s)))
	*e = append(*e, s...)
}

// pathRequest returns a request about one node: a read, or a list of its
// children.
func pathRequest(op int32, path string, watch bool) directRequest {
	var e encoder
	e.string(path)
	e.bool(watch)
	return directRequest{op, e}
}

// watchRequest returns a request for all events at and below path.
func watchRequest(path string) directRequest {
	var e encoder
	e.string(path)
	e.int(recursive)
	return directRequest{opAddWatch, e}
}

// multiReadRequest returns one request that reads all of paths.
func multiReadRequest(paths []string) directRequest {
	var e encoder
	head := func(op int32, done bool) {
		e.int(op)
		e.bool(done)
		e.int(opError)
	}
	for _, path := range paths {
		head(opGetData, false)
		e.string(path)
		e.bool(false)
	}
	head(opError, true)
	return directRequest{opMultiRead, e}
}

// errShort is the error for an answer that is shorter than its content
// requires.
var errShort = errors.New("ZooKeeper's answer is truncated")

// decoder reads the fields of an answer. After the first error it returns zero
// values.
type decoder struct {
	p   []byte
	err error
}

func (d *decoder) next(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.p) {
		d.p, d.err = nil, errShort
		return make([]byte, 8) // for the largest number
	}
	p := d.p[:n:n]
	d.p = d.p[n:]
	return p
}

func (d *decoder) int() int32  { return int32(binary.BigEndian.Uint32(d.next(4))) }
func (d *decoder) long() int64 { return int64(binary.BigEndian.Uint64(d.next(8))) }

func (d *decoder) bytes() []byte {
	n := d.int()
	if n < 0 || d.err != nil {
		return nil
	}
	p := d.next(int(n))
	if d.err != nil {
		return nil
	}
	return p
}

func (d *decoder) stat() zk.Stat {
	return zk.Stat{
		Czxid: d.long(), Mzxid: d.long(), Ctime: d.long(), Mtime: d.long(),
		Version: d.int(), Cversion: d.int(), Aversion: d.int(), EphemeralOwner: d.long(),
		DataLength: d.int(), NumChildren: d.int(), Pzxid: d.long(),
	}
}

// node decodes the answer to a read.
func (d *decoder) node() node {
	// The value is copied. Otherwise one node that stays would keep the whole
	// answer in memory.
	value := append([]byte{}, d.bytes()...)
	return node{there: true, value: value, stat: d.stat()}
}

// names decodes the answer to a request for children.
func (d *decoder) names() (names []string, stat zk.Stat) {
	for n := d.int(); n > 0 && d.err == nil; n-- {
		names = append(names, string(d.bytes()))
	}
	return names, d.stat()
}

// nodes decodes the answer to the reads of n nodes.
func (d *decoder) nodes(n int) ([]node, error) {
	out := make([]node, n)
	for i := range out {
		op := d.int()
		d.next(1 + 4) // the flag of the last part, and an error that is repeated after it
		if op == opGetData {
			out[i] = d.node()
			continue
		}
		err := errorOf(d.int())
		if d.err != nil {
			return nil, d.err
		}
		if !errors.Is(err, zk.ErrNoNode) {
			return nil, err
		}
	}
	return out, d.err
}

var errTooLarge = errors.New("the answer is too large")

// multiNodes returns the n nodes that were read in one request.
func multiNodes(r reply, n int) ([]node, error) {
	if r.size > 0 {
		return nil, errTooLarge
	}
	if err := errorOf(r.code); err != nil {
		return nil, err
	}
	d := decoder{p: r.body}
	return d.nodes(n)
}

// nodesOf returns the nodes that were read one by one.
func nodesOf(replies []reply) ([]node, error) {
	out := make([]node, len(replies))
	for i, r := range replies {
		err := errorOf(r.code)
		if errors.Is(err, zk.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, err
		}
		d := decoder{p: r.body}
		if out[i] = d.node(); d.err != nil {
			return nil, d.err
		}
	}
	return out, nil
}

// tooLarge returns the failure of an answer above MaxBuffer. It does not blame
// the server.
func (b *Backend) tooLarge(addr, what, path string, size int) error {
	return &backend.Failure{Endpoint: addr, Kind: dcs.ErrUnavailable, Err: fmt.Errorf(
		"%s %s has %d bytes, above Config.MaxBuffer (max_buffer) of %d: raise MaxBuffer, or store less there", what, path, size, b.c.MaxBuffer)}
}

// listingsOf returns the children of paths. The listing of a node that is not
// there is nil.
func (b *Backend) listingsOf(addr string, paths []string, replies []reply) ([]*listing, error) {
	out := make([]*listing, len(paths))
	for i, r := range replies {
		if r.size > 0 {
			return nil, b.tooLarge(addr, "the list of the nodes below", paths[i], r.size)
		}
		err := errorOf(r.code)
		if errors.Is(err, zk.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, err
		}
		d := decoder{p: r.body}
		names, stat := d.names()
		if d.err != nil {
			return nil, d.err
		}
		out[i] = &listing{stat: stat, paths: b.children(paths[i], names)}
		out[i].stat.Cversion -= int32(len(names) - len(out[i].paths))
	}
	return out, nil
}
