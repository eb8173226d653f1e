package etcd3

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestKnownDefects(t *testing.T) {
	for version, want := range map[string][]int{
		"3.3.27":        {15220, 15247, 20547, 20418, 14254},
		"3.4.19":        {15220, 15247, 20547, 20418, 14254},
		"3.4.25":        {17557, 15247, 20547, 20418},
		"3.4.31":        {20547, 20418},
		"3.4.42":        nil,
		"3.5.2":         {15220, 15247, 20547, 20418, 14254, 13766},
		"3.5.7":         {15220, 15247, 20547, 20418},
		"3.5.8":         {17557, 15247, 20547, 20418},
		"3.5.12":        {17557, 15247, 20547, 20418},
		"3.5.13":        {20547, 20418},
		"3.5.23":        {20418},
		"3.5.28":        nil,
		"3.5.28-rc.1":   nil,
		"3.6.0-alpha.0": {20547, 20418},
		"3.6.5":         {20418},
		"3.6.9":         nil,
		"3.7.0":         nil,
		"4.0.0":         nil,
	} {
		var got []int
		known, ok := defectsOf(version)
		require.True(t, ok, version)
		for _, d := range known {
			got = append(got, d.issue)
		}
		slices.Sort(got)
		slices.Sort(want)
		require.Equal(t, want, got, version)
	}
	for _, version := range []string{"", "main", "3", "3.x.1", "3.5", "2.3.8"} {
		_, ok := defectsOf(version)
		require.False(t, ok, version)
	}
}

// The documentation names the releases of the table, and no others.
func TestDocumentedReleases(t *testing.T) {
	text := func(file string) string {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		return strings.Join(strings.Fields(strings.ReplaceAll(string(data), "\n//", "\n")), " ")
	}
	of := func(which func(d defect) bool) string {
		releases := strings.Split(fixedIn(slices.DeleteFunc(slices.Clone(defects), func(d defect) bool { return !which(d) })), ", ")
		last := len(releases) - 1
		return "(before " + strings.Join(releases[:last], ", ") + " and " + releases[last] + ")"
	}
	doc := text("doc.go")
	require.Contains(t, doc, "Use etcd "+fixedIn(defects)+" or a later release")
	require.Contains(t, text("../docs/operations.md"), "Run "+fixedIn(defects)+" or later")
	for after, which := range map[string]func(d defect) bool{
		"that were renewed at its successor ": func(d defect) bool { return d.issue == 15247 },
		"that is being revoked is confirmed ": func(d defect) bool { return d.issue == 20547 },
		"linearizable read with old data ":    func(d defect) bool { return d.issue == 20418 },
		"progress are wrong or missing ":      func(d defect) bool { return d.noProgress },
	} {
		require.Contains(t, doc, after+of(which))
	}
	known := fixedIn(defects)
	for _, d := range defects {
		known += ", " + fixedIn([]defect{d})
	}
	for _, release := range regexp.MustCompile(`\b3\.\d+\.\d+\b`).FindAllString(doc, -1) {
		require.Contains(t, strings.Split(known, ", "), release)
	}
}

// watchOrder is the way in which a fakeWatch answers a progress request.
type watchOrder int

const (
	eventsFirst   watchOrder = iota
	progressFirst            // etcd #15220
	noProgress               // etcd #17557
)

// fakeWatch is a fakeStore whose watch sends no event before a progress request, which is
// the longest delay that a server may cause.
type fakeWatch struct {
	*fakeStore
	pb.UnimplementedWatchServer
	order watchOrder

	mu     sync.Mutex
	events []*pb.WatchResponse
}

func (f *fakeWatch) register(g *grpc.Server) {
	f.fakeStore.register(g)
	pb.RegisterWatchServer(g, f)
}

func (f *fakeWatch) Watch(s pb.Watch_WatchServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		f.fakeStore.mu.Lock()
		answer := &pb.WatchResponse{Header: f.header()}
		f.fakeStore.mu.Unlock()
		if r.GetCreateRequest() != nil {
			answer.Created = true
			if err := s.Send(answer); err != nil {
				return err
			}
			continue
		}
		f.mu.Lock()
		out := f.events
		f.events = nil
		f.mu.Unlock()
		switch f.order {
		case eventsFirst:
			out = append(out, answer)
		case progressFirst:
			out = append([]*pb.WatchResponse{answer}, out...)
		case noProgress:
			out = nil
		}
		for _, r := range out {
			if err := s.Send(r); err != nil {
				return err
			}
		}
	}
}

// An answer to a progress request that overtakes events must not hide them. A server that
// does not answer progress requests is not blamed.
func TestWatchOfEachVersion(t *testing.T) {
	for version, order := range map[string]watchOrder{"3.7.3": eventsFirst, "3.5.7": progressFirst, "3.5.9": noProgress, "unknown": progressFirst} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f := &fakeWatch{fakeStore: newFakeStore(), order: order}
			f.version = version
			var blamed sync.Map
			b, store := f.clientAt(t, serve(t, f.register), Config{
				Observer: dcs.Observer{Endpoint: func(e dcs.EndpointEvent) { blamed.Store(fmt.Sprint(e.Change), e.Reason) }},
			})
			since, err := store.Snapshot(t.Context(), "")
			require.NoError(t, err)
			got := make(chan dcs.Snapshot, 1)
			go func() {
				s, err := store.Wait(t.Context(), "w", since.Revision)
				if err == nil {
					got <- s
				}
			}()
			require.Eventually(t, func() bool { return b.copy.Begins() > 0 }, 5*time.Second, time.Millisecond)
			f.write("w/k")
			_, err = store.Get(t.Context(), "other") // the answer names the new revision
			require.ErrorIs(t, err, dcs.ErrNotFound)
			select {
			case s := <-got:
				_, found := s.Get("w/k")
				require.True(t, found)
			case <-time.After(3 * time.Second):
				t.Fatal("the Wait did not return")
			}
			time.Sleep(3 * b.copy.Every) // nothing may change during this time
			blamed.Range(func(change, reason any) bool { t.Errorf("%v: %v", change, reason); return true })
		})
	}
}

// write stores a key and holds back the event.
func (f *fakeWatch) write(key string) {
	f.fakeStore.mu.Lock()
	defer f.fakeStore.mu.Unlock()
	f.apply([]*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("/t/" + key)}}}})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, &pb.WatchResponse{Header: f.header(), Events: putEvent(f.keys["/t/"+key])})
}

// A server with known defects is logged once.
func TestKnownDefectsAreWarnedOf(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	written := func() string {
		mu.Lock()
		defer mu.Unlock()
		return log.String()
	}
	f := newFakeStore()
	f.version = "3.5.7"
	_, store := f.client(t, Config{Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))})
	require.Eventually(t, func() bool { return strings.Contains(written(), "issues/15247") }, 5*time.Second, time.Millisecond)
	_, err := store.Snapshot(t.Context(), "")
	require.NoError(t, err)
	require.Contains(t, written(), "version=3.5.7")
	require.Contains(t, written(), "3.5.28", "the first release without any of the defects")
	require.Equal(t, 1, strings.Count(written(), "issues/15247"), written())
}

// Servers that were removed are forgotten, however many addresses there were.
func TestWarningsOfRemovedServersAreForgotten(t *testing.T) {
	b, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Root: "r", NoDiscovery: true})
	require.NoError(t, err)
	defer b.Close()
	b.warn("127.0.0.1:1", "3.5.7")
	for i := range 100 {
		b.warn(fmt.Sprintf("10.0.0.%d:2379", i), "3.5.7")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Equal(t, map[string]string{"127.0.0.1:1": "3.5.7", "10.0.0.99:2379": "3.5.7"}, b.warned)
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
