package transport

import (
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkCall measures one call of the size of a renewal, alone and among
// others, against the cost of the loopback itself.
func BenchmarkCall(b *testing.B) {
	b.Run("loopback", benchmarkLoopback)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("plain/callers=%d", callers), func(b *testing.B) { benchmarkCall(b, callers) })
	}
	dir := newTestCA(b)
	b.Run("tls/callers=1", func(b *testing.B) { benchmarkCall(b, 1, dir.secure(b)) })
	b.Run("own", func(b *testing.B) {
		a, _ := startPair(b)
		ctx, body := testContext(b), make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			_, err := a.Call(ctx, a.Addr(), 1, body)
			require.NoError(b, err)
		}
	})
}

func benchmarkCall(b *testing.B, callers int, edit ...func(*Options)) {
	x, y := startPair(b, edit...)
	mustCall(b, x, y.Addr(), "connected")
	ctx, body := testContext(b), make([]byte, 64)
	b.ReportAllocs()
	if callers == 1 {
		var times []time.Duration
		for b.Loop() {
			start := time.Now()
			if _, err := x.Call(ctx, y.Addr(), 1, body); err != nil {
				b.Fatal(err)
			}
			times = append(times, time.Since(start))
		}
		reportPercentiles(b, times)
		return
	}
	b.SetParallelism(callers / 2)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := x.Call(ctx, y.Addr(), 1, body); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func reportPercentiles(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds()), "p99-ns")
}

// benchmarkLoopback is the floor: one message there and back, blocking reads,
// nothing around it.
func benchmarkLoopback(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(b, err)
	defer conn.Close()
	msg := make([]byte, 64+frameHeader)
	var times []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := conn.Write(msg); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, msg); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	reportPercentiles(b, times)
}
