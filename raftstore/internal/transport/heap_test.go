package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// slowProfile reports whether the tests may take long.
func slowProfile() bool { return os.Getenv("HOLDFAST_PROFILE") == "slow" }

// heapGrowth returns by how much the heap grew at most while do ran, garbage
// included.
func heapGrowth(do func()) int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() int64 {
		metrics.Read(sample)
		return int64(sample[0].Value.Uint64())
	}
	runtime.GC()
	before := read()
	most := before
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most = max(most, read())
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	do()
	close(stop)
	<-stopped
	return most - before
}

// pour writes the parts to count connections of kind k from a to b, as often as
// b takes them within the time.
func pour(t *testing.T, a, b *Network, k Kind, count int, lasts time.Duration, parts ...[]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var wg sync.WaitGroup
	for range count {
		wg.Go(func() {
			for ctx.Err() == nil {
				conn, err := a.dial(ctx, k, b.Addr())
				if err != nil {
					backoff.Sleep(ctx, 10*time.Millisecond)
					continue
				}
				lift := context.AfterFunc(ctx, func() { conn.Close() })
				for err == nil {
					for i := 0; err == nil && i < len(parts); i++ {
						_, err = conn.Write(parts[i])
					}
				}
				lift()
				conn.Close()
			}
		})
	}
	wg.Wait()
}

// The messages of another node, on however many connections, take a bounded
// part of the heap.
func TestHeapIsBounded(t *testing.T) {
	const connections = 20 // more than one node may have
	lasts := time.Second
	if slowProfile() {
		lasts = 20 * time.Second
	}
	// Requests of Raft.
	largest := raftRequest(t, rpcAppendEntries, "Entries", encoded(
		append([]byte{0x92}, bytes.Repeat(fields(t, "Data", make([]byte, maxBatchBytes/2)), 2)...)))
	empties := raftRequest(t, rpcAppendEntries, "Entries", encoded(append([]byte{0xdd, 0x03, 0xf0, 0, 0}, bytes.Repeat([]byte{0x80}, 1<<20)...)))
	huge := raftRequest(t, rpcAppendEntries, "Leader", encoded(append([]byte{0xc6, 0x03, 0xf0, 0, 0}, make([]byte, 1<<20)...)))
	// Calls: one with as many bytes as a request may have, and one that claims 63 MiB.
	full := appendFrame(nil, frame{kind: frameRequest, op: 7, id: 1, body: make([]byte, maxRequest)})
	claimed := appendFrame(nil, frame{kind: frameRequest, op: 7, id: 1})
	binary.LittleEndian.PutUint32(claimed[4:], 63<<20)
	chunk := make([]byte, 1<<20)

	for name, attack := range map[string]struct {
		kind  Kind
		parts [][]byte
	}{
		"largest batches":       {KindRaft, [][]byte{largest}},
		"million empty entries": {KindRaft, [][]byte{empties}},
		"63 MiB in a request":   {KindRaft, [][]byte{huge, chunk}},
		"largest calls":         {KindCall, [][]byte{full}},
		"63 MiB in a call":      {KindCall, [][]byte{claimed, chunk}},
	} {
		for _, secured := range []bool{false, true} {
			t.Run(map[bool]string{false: "plain", true: "TLS"}[secured]+" "+name, func(t *testing.T) {
				var edit []func(*Options)
				if secured {
					edit = append(edit, newTestCA(t).secure(t))
				}
				a, b := startPair(t, edit...)
				trans := raftOf(t, b)
				serveRaft(t, trans, func(raft.RPC) any {
					<-time.After(10 * time.Millisecond) // a disk
					return &raft.AppendEntriesResponse{}
				})
				b.Serve(func(_ context.Context, _ byte, body []byte) []byte {
					decoded := bytes.Clone(body)
					<-time.After(100 * time.Millisecond) // a quorum
					return decoded[:min(len(decoded), 10)]
				})
				grown := heapGrowth(func() { pour(t, a, b, attack.kind, connections, lasts, attack.parts...) })
				t.Logf("%d MiB", grown>>20)
				require.Less(t, grown, int64(200<<20))
			})
		}
	}
}
