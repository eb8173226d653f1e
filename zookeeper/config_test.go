package zookeeper

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/attempt"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

func TestConfigNamesEveryFault(t *testing.T) {
	_, err := New(Config{
		Endpoints: []string{"zk://h:2181"}, Root: "zookeeper/quota", User: "a:b", ACL: "world:anyone:x", Tick: -1, MinTTL: 9 * time.Second, MaxTTL: time.Second,
	})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	for _, part := range []string{"without a scheme", "reserved for ZooKeeper", "belong together", "must not contain a colon", "ACL", "Tick", "MinTTL"} {
		require.ErrorContains(t, err, part)
	}
	_, err = New(Config{
		Endpoints: []string{"h"}, Root: "r", Timing: dcs.Timing{TTL: time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second},
	})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "RetryTimeout")
}

func TestACL(t *testing.T) {
	for text, want := range map[string][]zk.ACL{
		"":                                  {{Perms: zk.PermAll, Scheme: "world", ID: "anyone"}},
		"world:anyone:r":                    {{Perms: zk.PermRead, Scheme: "world", ID: "anyone"}},
		"auth::cdrwa,ip:10.0.0.0/8:rw":      {{Perms: zk.PermAll, Scheme: "auth"}, {Perms: zk.PermRead | zk.PermWrite, Scheme: "ip", ID: "10.0.0.0/8"}},
		"digest:me:aGFzaA==:cdrw,sasl:me:a": {{Perms: zk.PermAll &^ zk.PermAdmin, Scheme: "digest", ID: "me:aGFzaA=="}, {Perms: zk.PermAdmin, Scheme: "sasl", ID: "me"}},
	} {
		got, err := parseACL(text, false)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	got, err := parseACL(`x509:CN=a\,O=b\\\,c:cdrwa,world:anyone:r`, false)
	require.NoError(t, err)
	require.Equal(t, []zk.ACL{{Perms: zk.PermAll, Scheme: "x509", ID: `CN=a,O=b\,c`}, {Perms: zk.PermRead, Scheme: "world", ID: "anyone"}}, got)
	user, err := parseACL("", true)
	require.NoError(t, err)
	require.Equal(t, zk.AuthACL(zk.PermAll), user)
	for _, text := range []string{"world", "world:anyone", "world:anyone:", "world:anyone:z", ":x:r", ",", "world:anyone:r,", `world:anyone:r\`, "x509:CN=a,O=b:cdrwa"} {
		_, err := parseACL(text, false)
		require.Error(t, err, text)
	}
}

// A tick that is too long is safe, and one that is too short is not. Of the two
// ticks that the servers' limits suggest, the longer one counts.
func TestTickIsMeasured(t *testing.T) {
	ms := time.Millisecond
	for _, c := range []struct {
		config            Config
		shortest, longest time.Duration
		want              limits
	}{
		{Config{}, 4000 * ms, 40000 * ms, limits{4000 * ms, 40000 * ms, 2000 * ms}},
		{Config{}, 1 * ms, 40000 * ms, limits{1 * ms, 40000 * ms, 2000 * ms}},
		{Config{}, 4000 * ms, 5000 * ms, limits{4000 * ms, 5000 * ms, 2000 * ms}},
		{Config{Tick: 100 * ms}, 4000 * ms, 40000 * ms, limits{4000 * ms, 40000 * ms, 100 * ms}},
		{Config{MinTTL: 1 * ms, MaxTTL: 9 * ms}, 4000 * ms, 40000 * ms, limits{1 * ms, 9 * ms, 2000 * ms}},
	} {
		require.Equal(t, c.want, c.config.measured(c.shortest, c.longest))
	}
	require.Equal(t, limits{4 * time.Second, 40 * time.Second, 2 * time.Second}, Config{}.limits(), "ZooKeeper's defaults")
}

// Each error of a call has one meaning. The outcome of an error that is not in
// the table is unknown, and the server is blamed.
func TestMeanings(t *testing.T) {
	b, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Root: "r", User: "me", Password: "secret"})
	require.NoError(t, err)
	defer b.Close()
	s, err := b.newSession(sessionOptions{ttl: time.Second})
	require.NoError(t, err)
	defer s.end(dcs.ErrClosed)
	for name, c := range map[string]struct {
		err            error
		kind           error
		refused, blame bool
		also           backend.Failure
	}{
		"the connection broke": {err: zk.ErrConnectionClosed, blame: true},
		"an unknown code":      {err: zk.ErrUnknown, blame: true},
		"the session moved":    {err: zk.ErrSessionMoved, refused: true},
		"a missing permission": {err: zk.ErrNoAuth, kind: dcs.ErrUnauthorized, refused: true},
		"a bad ACL":            {err: zk.ErrInvalidACL, kind: dcs.ErrUnauthorized, refused: true},
		"a wrong user":         {err: zk.ErrAuthFailed, kind: dcs.ErrUnauthorized, refused: true},
		"the session is over":  {err: zk.ErrSessionExpired, refused: true},
		"too many requests":    {err: errThrottled, refused: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"too many, in a read":  {err: errors.Join(nil, errThrottled), refused: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
		"too many, after a no": {err: &afterwards{errThrottled}, refused: true, also: backend.Failure{Doubt: true, Throttled: true, Busy: time.Second}},
	} {
		err := b.failed(s, "h:1", c.err)
		var f *backend.Failure
		require.ErrorAs(t, err, &f, name)
		require.Equal(t, []any{c.refused, c.blame}, []any{f.Refused, f.Blame}, name)
		require.Equal(t, c.kind, f.Kind, name)
		require.Equal(t, []any{c.also.Doubt, c.also.Throttled, c.also.Busy}, []any{f.Doubt, f.Throttled, f.Busy}, name)
		require.Equal(t, c.refused, errors.Is(err, attempt.ErrNotSent), name)
		require.NotContains(t, err.Error(), "secret", name)
	}
	for name, c := range map[string]struct {
		err  error
		kind error
	}{
		"refused":               {err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}},
		"an unknown authority":  {err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, kind: dcs.ErrUnauthorized},
		"another host":          {err: x509.HostnameError{Certificate: &x509.Certificate{}}, kind: dcs.ErrUnauthorized},
		"our certificate":       {err: &net.OpError{Op: "remote error", Err: tls.AlertError(42)}, kind: dcs.ErrUnauthorized},
		"no answer in its time": {err: os.ErrDeadlineExceeded},
	} {
		err := b.unreachable("h:1", c.err)
		var f *backend.Failure
		require.ErrorAs(t, err, &f, name)
		require.Equal(t, c.kind, f.Kind, name)
		require.True(t, f.Refused && f.Blame && f.Unreachable, name)
	}
	for _, err := range []error{io.EOF, &net.OpError{Op: "read", Err: syscall.ECONNRESET}} {
		var f *backend.Failure
		require.ErrorAs(t, b.notGranted("h:1", err), &f)
		require.True(t, f.Refused && !f.Blame && !f.Unreachable && f.Busy > 0, "a server at its limit keeps serving its connections")
		require.ErrorContains(t, f, "maxClientCnxns")
	}
}

// A node is a key unless it is a parent. A parent of ours has a value that
// marks it. A parent of another program is recognised by the nodes that it has,
// or has had, below it.
func TestKeysAndParents(t *testing.T) {
	for name, c := range map[string]struct {
		n             node
		entry, branch bool
	}{
		"absent":                            {n: node{}},
		"a value":                           {n: node{there: true, value: []byte("x")}, entry: true},
		"an empty value":                    {n: node{there: true}, entry: true, branch: true},
		"ephemeral":                         {n: node{there: true, stat: zk.Stat{EphemeralOwner: 1}}, entry: true},
		"a parent of ours":                  {n: node{there: true, value: parentValue}, branch: true},
		"another's parent":                  {n: node{there: true, stat: zk.Stat{NumChildren: 1, Cversion: 1}}, branch: true},
		"another's parent with a value":     {n: node{there: true, value: []byte("x"), stat: zk.Stat{NumChildren: 1}}, branch: true},
		"another's parent, empty again":     {n: node{there: true, stat: zk.Stat{Cversion: 2}}, branch: true},
		"a value that once had nodes below": {n: node{there: true, value: []byte("x"), stat: zk.Stat{Cversion: 2}}, entry: true},
	} {
		require.Equal(t, c.entry, c.n.entry(), name)
		require.Equal(t, c.branch, c.n.branch(), name)
	}
	require.Equal(t, []string{"/a", "/a/b"}, parents("/a/b/c"))
}

// If one epoch node stands for several keys, a transaction depends on the
// version of it that was read first. Between that and the last reading a key
// may have been deleted and created.
func TestPlanDependsOnTheOldestEpoch(t *testing.T) {
	b, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Root: "r"})
	require.NoError(t, err)
	defer b.Close()
	first, second := "a", ""
	for i := 0; second == ""; i++ {
		if key := fmt.Sprint("k", i); b.epochOf(key) == b.epochOf(first) {
			second = key
		}
	}
	b.known.Note(first, state{there: true, entry: true, version: 3, modified: 30, epoch: 5})
	b.known.Note(second, state{there: true, entry: true, version: 4, modified: 40, epoch: 7})
	b.known.Note(".op/m", state{there: true, entry: true, version: 1, modified: 10})
	b.made.Note(b.epochOf(first), true)
	for _, keys := range [][2]string{{first, second}, {second, first}} {
		r := attempt.Request{Marker: attempt.Marker{Key: ".op/m", Modified: 10}, Txn: dcs.Txn{
			If:   []dcs.Cond{dcs.ModifiedAt(keys[0], 30), dcs.ModifiedAt(keys[1], 40)},
			Then: []dcs.Write{dcs.Delete(keys[0]), dcs.Put(keys[1], nil)},
		}}
		p := newPlan(b, r, "")
		p.loadCached()
		p.build()
		require.Contains(t, p.ops, &zk.CheckVersionRequest{Path: b.epochOf(first), Version: 5})
	}

	// Our own creation increments the epoch's version, and the cached states
	// move to the new version.
	b.known.learn(map[string]int32{b.epochOf(first): 8}, b.epochOf, nil)
	s, _ := b.known.Of(second)
	require.Equal(t, int32(8), s.epoch)
	s, _ = b.known.Of(first)
	require.Equal(t, int32(5), s.epoch, "another client wrote the epoch in between")
}

// A transaction is built on the same states that its conditions were checked
// against. A state that another call caches in between must not let the
// transaction pass.
func TestPlanIsBuiltOnWhatItChecked(t *testing.T) {
	b, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Root: "r"})
	require.NoError(t, err)
	defer b.Close()
	now := func(version int32, modified dcs.Revision) {
		b.known.Note("a", state{there: true, entry: true, version: version, modified: modified, epoch: 5})
		b.known.Note(".op/m", state{there: true, entry: true, version: version, modified: modified})
	}
	now(3, 30)
	for _, path := range append(parents(b.path(".op/m")), b.epochOf("a"), b.epochOf(".op/m")) {
		b.made.Note(path, true)
	}
	r := attempt.Request{Marker: attempt.Marker{Key: ".op/m", Modified: 30, Nonce: []byte("n")}, Txn: dcs.Txn{
		If: []dcs.Cond{dcs.ModifiedAt("a", 30)}, Then: []dcs.Write{dcs.Put("a", []byte("v"))},
	}}
	p := newPlan(b, r, "")
	entries, err := p.prepare(t.Context(), nil, "")
	require.NoError(t, err)
	require.Nil(t, entries)
	now(4, 40) // a later write of this client was answered, or another copy of this one
	p.build()
	require.Equal(t, []any{
		&zk.SetDataRequest{Path: b.path(".op/m"), Data: []byte("n"), Version: 3},
		&zk.CheckVersionRequest{Path: b.epochOf("a"), Version: 5},
		&zk.SetDataRequest{Path: b.path("a"), Data: []byte("v"), Version: 3},
	}, p.ops)
}

// Two readings prove the tree's state between them, though the tree is written
// all the time.
func TestAtRevision(t *testing.T) {
	at := func(made, written int64, version int32, value string) node {
		return node{there: true, stat: zk.Stat{Czxid: made, Mzxid: written, Pzxid: made, Version: version}, value: []byte(value)}
	}
	top := func(cversion int32, paths ...string) node {
		n := at(1, 1, 0, "")
		n.stat.NumChildren, n.below = 1, &listing{paths, zk.Stat{Cversion: cversion, Pzxid: 11}}
		return n
	}
	a, b := at(1, 5, 2, "a5"), at(2, 9, 4, "b9")
	earlier := view{"/r": top(2, "/r/a", "/r/b"), "/r/a": a, "/r/b": b}
	for name, c := range map[string]struct {
		later view
		want  string
	}{
		"unchanged":                       {view{"/r": top(2, "/r/a", "/r/b"), "/r/a": a, "/r/b": b}, "a5 b9 "},
		"changed once, afterwards":        {view{"/r": top(2, "/r/a", "/r/b"), "/r/a": at(1, 12, 3, "a12"), "/r/b": b}, "a5 b9 "},
		"changed before it":               {view{"/r": top(2, "/r/a", "/r/b"), "/r/a": at(1, 10, 4, "a10"), "/r/b": b}, "a10 b9 "},
		"one before, one after":           {view{"/r": top(2, "/r/a", "/r/b"), "/r/a": at(1, 10, 3, "a10"), "/r/b": at(2, 11, 5, "b11")}, "a10 b9 "},
		"made afterwards":                 {view{"/r": top(3, "/r/a", "/r/b", "/r/c"), "/r/a": a, "/r/b": b, "/r/c": at(11, 11, 0, "c11")}, "a5 b9 "},
		"made before it":                  {view{"/r": top(3, "/r/a", "/r/b", "/r/c"), "/r/a": a, "/r/b": b, "/r/c": at(10, 10, 0, "c10")}, "a5 b9 c10"},
		"made before it, and again since": {view{"/r": top(3, "/r/a", "/r/b", "/r/c"), "/r/a": a, "/r/b": b, "/r/c": at(13, 13, 0, "c13")}, ""},
		"changed twice, the last after":   {view{"/r": top(2, "/r/a", "/r/b"), "/r/a": at(1, 12, 4, "a12"), "/r/b": b}, ""},
		"made before it, changed since":   {view{"/r": top(3, "/r/a", "/r/b", "/r/c"), "/r/a": a, "/r/b": b, "/r/c": at(10, 11, 1, "c11")}, ""},
		"made, and gone when it is read":  {view{"/r": top(3, "/r/a", "/r/b", "/r/c"), "/r/a": a, "/r/b": b}, ""},
		"another came and went":           {view{"/r": top(4, "/r/a", "/r/b"), "/r/a": a, "/r/b": b}, ""},
		"made again":                      {view{"/r": top(4, "/r/a", "/r/b"), "/r/a": at(8, 8, 2, "a8"), "/r/b": b}, ""},
		"taken away":                      {view{"/r": top(3, "/r/b"), "/r/b": b}, ""},
		"one for another":                 {view{"/r": top(4, "/r/b", "/r/c"), "/r/b": b, "/r/c": at(11, 11, 0, "c11")}, ""},
		"no longer there":                 {view{}, ""},
	} {
		v, ok := earlier.atRevision(c.later, "/r", 10)
		require.Equal(t, c.want != "", ok, name)
		if ok {
			require.Equal(t, c.want, string(v["/r/a"].value)+" "+string(v["/r/b"].value)+" "+string(v["/r/c"].value), name)
		}
	}
	unlisted := view{"/r": top(2), "/r/a": a}
	n := unlisted["/r"]
	n.below = nil
	unlisted["/r"] = n
	_, ok := unlisted.atRevision(unlisted, "/r", 10)
	require.False(t, ok, "the children of a node are unknown")
	v, ok := view{}.atRevision(view{"/r": at(11, 11, 0, "")}, "/r", 10)
	require.True(t, ok)
	require.Empty(t, v, "the tree was made later")
	_, ok = view{}.atRevision(view{"/r": at(10, 10, 0, "")}, "/r", 10)
	require.False(t, ok)
}

func TestRefusals(t *testing.T) {
	quota := errors.New("unknown error: -125")
	for name, c := range map[string]struct {
		results []zk.MultiResponse
		err     error
		want    error
	}{
		"applied":              {results: []zk.MultiResponse{{Stat: &zk.Stat{}}, {}}},
		"a condition":          {results: []zk.MultiResponse{{}, {Error: zk.ErrBadVersion}, {Error: errors.New("unknown error: -2")}}, err: zk.ErrBadVersion, want: zk.ErrBadVersion},
		"the whole":            {err: zk.ErrNodeExists, want: zk.ErrNodeExists},
		"an unknown code":      {results: []zk.MultiResponse{{}, {Error: quota}}, err: quota, want: quota},
		"the connection broke": {err: zk.ErrConnectionClosed},
	} {
		require.Equal(t, c.want, refusalOf(c.results, c.err), name)
	}
	b, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Root: "r"})
	require.NoError(t, err)
	defer b.Close()
	for refusal, kind := range map[error]error{
		zk.ErrBadVersion: nil, zk.ErrNodeExists: nil, zk.ErrNoNode: nil,
		zk.ErrNoAuth: dcs.ErrUnauthorized, zk.ErrNotEmpty: dcs.ErrInvalid, zk.ErrNoChildrenForEphemerals: dcs.ErrInvalid, quota: dcs.ErrUnavailable,
	} {
		err := b.forbidden("h:1", refusal, seen{})
		require.Equal(t, kind, dcs.KindOf(err), refusal)
		require.Equal(t, kind != nil, errors.Is(err, attempt.ErrNotSent), refusal)
	}
	below := b.forbidden("h:1", zk.ErrNodeExists, seen{above: "config"})
	require.ErrorIs(t, below, dcs.ErrInvalid)
	require.ErrorContains(t, below, `"config"`)
}

// frame returns a frame for a stream.
func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// The heads of frames are found wherever the stream is split.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("one"), []byte(""), bytes.Repeat([]byte("x"), 200), uint8(1))
	f.Add([]byte{}, []byte{0, 0, 0, 1}, []byte("three"), uint8(3))
	f.Fuzz(func(t *testing.T, a, b, c []byte, step uint8) {
		var stream []byte
		var want [][]byte
		for _, body := range [][]byte{a, b, c} {
			stream = append(stream, frame(body)...)
			want = append(want, body[:min(len(body), mostHead)])
		}
		var r frames
		var got [][]byte
		for len(stream) > 0 {
			n := min(len(stream), int(step)+1)
			r.feed(stream[:n], func(head []byte) { got = append(got, bytes.Clone(head)) })
			stream = stream[n:]
		}
		require.Len(t, got, len(want))
		for i := range want {
			require.Equal(t, string(want[i]), string(got[i]))
		}
	})
}

// Every answer of a server to a handshake is accepted or refused, without a
// panic.
func FuzzGranted(f *testing.F) {
	f.Add(asking(granted{id: 1, timeout: time.Second, password: []byte("0123456789abcdef")}, 7)[frameHead+8:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		g := parseGranted(body)
		require.Equal(t, g.refused, g.id == 0)
	})
}

// A node that was not there when it was listed, and is there when it is read,
// is listed again. Otherwise no event would name the nodes below it.
func TestMirrorListsNodeThatCameBack(t *testing.T) {
	b, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Root: "r"})
	require.NoError(t, err)
	defer b.Close()
	b.servers.Note("127.0.0.1:1", true)
	m, err := b.newMirror("127.0.0.1:1", "/r", request{op: "Wait"}, nil)
	require.NoError(t, err)
	defer m.s.end(dcs.ErrClosed)
	m.takePending()
	parent := node{there: true, stat: zk.Stat{Czxid: 7}, value: parentValue}
	m.take([]string{"/r/a"}, []node{parent})
	_, lists := m.takePending()
	require.Equal(t, []string{"/r/a"}, lists)
	m.list(lists, []*listing{nil})
	values, _ := m.takePending()
	require.Equal(t, []string{"/r/a"}, values, "reading the node shows whether it is there")
	m.take(values, []node{parent})
	_, lists = m.takePending()
	require.Equal(t, []string{"/r/a"}, lists)
}
