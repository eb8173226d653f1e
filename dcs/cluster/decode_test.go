package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// tree is a Snapshot of the cluster "pg" with these values.
func tree(values map[string]string) dcs.Snapshot {
	s := dcs.Snapshot{Revision: 100}
	for name, value := range values {
		s.Entries = append(s.Entries, dcs.Entry{Key: "pg/" + name, Value: []byte(value), Created: 7, Modified: dcs.Revision(10 + len(name))})
	}
	slices.SortFunc(s.Entries, func(a, b dcs.Entry) int { return strings.Compare(a.Key, b.Key) })
	return s
}

// patroni are values as Patroni 4 writes them.
var patroni = map[string]string{
	"leader":     "a",
	"members/a":  `{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"primary","version":"4.0.5","xlog_location":67108864,"timeline":2}`,
	"members/b":  `{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://10.0.0.2:8008/patroni","state":"streaming","role":"replica","version":"4.0.5","tags":{"nofailover":true,"clonefrom":true},"xlog_location":67108800,"replication_state":"streaming","timeline":2,"pending_restart":true}`,
	"members/c":  `postgres://10.0.0.3:5432/postgres?application_name=http://10.0.0.3:8008/patroni`,
	"config":     `{"ttl":30,"loop_wait":10,"retry_timeout":10,"maximum_lag_on_failover":1048576,"failsafe_mode":"on","postgresql":{"use_pg_rewind":true,"parameters":{"max_connections":100}}}`,
	"initialize": "7301234567890123456",
	"failover":   `{"leader":"a","member":"b","scheduled_at":"2026-12-01T10:00:00+01:00"}`,
	"sync":       `{"leader":"a","sync_standby":"b, c","quorum":1}`,
	"history":    `[[1,67108864,"no recovery target specified","2026-11-01T10:00:00.123456+00:00","a"],[2,1,"old"]]`,
	"status":     `{"optime":67108900,"slots":{"b":67108800,"ls":5},"retain_slots":["b"]}`,
	"failsafe":   `{"a":"http://10.0.0.1:8008/patroni","b":"http://10.0.0.2:8008/patroni"}`,
}

func TestDecodePatroni(t *testing.T) {
	v := Decode("pg", tree(patroni), nil)
	require.Len(t, v.Problems, 0)
	require.Equal(t, &Leader{Name: "a", Token: 7}, v.Leader)
	require.Len(t, v.Members, 3)
	a, ok := v.Member("a")
	require.True(t, ok)
	require.Equal(t, Member{
		Name: "a", APIURL: "http://10.0.0.1:8008/patroni", ConnURL: "postgres://10.0.0.1:5432/postgres", State: StateRunning, Role: RolePrimary,
		Version: "4.0.5", Position: 67108864, Timeline: 2, Created: 7, Modified: 19,
	}, a)
	require.True(t, a.Primary())
	require.False(t, a.NoFailover())
	b, _ := v.Member("b")
	require.True(t, b.NoFailover())
	require.False(t, b.Primary())
	require.Equal(t, "true", string(b.Extra["pending_restart"]))
	c, _ := v.Member("c")
	require.Equal(t, "http://10.0.0.3:8008/patroni", c.APIURL)
	require.Equal(t, "postgres://10.0.0.3:5432/postgres", c.ConnURL)
	_, ok = v.Member("d")
	require.False(t, ok)

	require.Equal(t, dcs.Timing{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}, v.Config.Timing())
	require.Equal(t, int64(1048576), v.Config.MaxLag)
	require.True(t, v.Config.FailsafeMode)
	require.False(t, v.Config.Pause)
	require.Equal(t, Initialize("7301234567890123456"), v.Initialize)
	require.Equal(t, "b", v.Failover.Candidate)
	require.Equal(t, time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC), v.Failover.At.UTC())
	require.Equal(t, Sync{Leader: "a", Standbys: []string{"b", "c"}, Quorum: 1}, v.Sync)
	require.Len(t, v.History, 2)
	require.Equal(t, Line{Timeline: 1, Position: 67108864, Reason: "no recovery target specified", Time: "2026-11-01T10:00:00.123456+00:00", Leader: "a"}, v.History[0])
	require.Equal(t, Status{Position: 67108900, Slots: map[string]int64{"b": 67108800, "ls": 5}, RetainSlots: []string{"b"}}, v.Status)
	require.False(t, v.Failsafe.Empty())
	require.True(t, v.Failsafe.Contains("b"))
	require.False(t, v.Failsafe.Contains("c"))
	require.Nil(t, v.Keeper)
}

func TestDecodeOlderFormats(t *testing.T) {
	v := Decode("pg", tree(map[string]string{"failover": "a:b", "status": "42", "members/a": `{"role":"master","tags":{"failover_priority":0}}`}), nil)
	require.Len(t, v.Problems, 0)
	require.Equal(t, &Failover{Leader: "a", Candidate: "b"}, v.Failover)
	require.Equal(t, int64(42), v.Status.Position)
	require.True(t, v.Members[0].Primary())
	require.True(t, v.Members[0].NoFailover())
	v = Decode("pg", tree(map[string]string{"optime/leader": "41"}), nil)
	require.Equal(t, int64(41), v.Status.Position)
	v = Decode("pg", tree(map[string]string{"optime/leader": "41", "status": "42"}), nil)
	require.Equal(t, int64(42), v.Status.Position)
	for _, none := range []string{"{}", "", `{"leader":null,"member":""}`} {
		require.Nil(t, Decode("pg", tree(map[string]string{"failover": none}), nil).Failover, none)
	}
}

// A value that is not readable is reported, has its safe meaning, and hides nothing.
func TestDecodeUnreadable(t *testing.T) {
	last := Decode("pg", tree(map[string]string{"config": `{"ttl":30,"pause":true}`}), nil)
	for name, x := range map[string]struct {
		key, value string
		check      func(t *testing.T, v *View)
	}{
		"leader":                  {"leader", "a/b", func(t *testing.T, v *View) { require.Equal(t, &Leader{Token: 7}, v.Leader) }},
		"empty leader":            {"leader", "", func(t *testing.T, v *View) { require.Equal(t, &Leader{Token: 7}, v.Leader) }},
		"member":                  {"members/a", "[]", func(t *testing.T, v *View) { require.Equal(t, "a", v.Members[0].Name) }},
		"member's field":          {"members/a", `{"state":"running","timeline":"x"}`, func(t *testing.T, v *View) { require.Equal(t, "running", v.Members[0].State) }},
		"name":                    {"members/a,b", `{}`, func(t *testing.T, v *View) { require.Len(t, v.Members, 1) }},
		"config":                  {"config", "[1]", func(t *testing.T, v *View) { require.Equal(t, last.Config, v.Config) }},
		"config's field":          {"config", `{"pause":"maybe"}`, func(t *testing.T, v *View) { require.True(t, v.Config.Pause) }},
		"failover":                {"failover", `{"leader":`, func(t *testing.T, v *View) { require.Nil(t, v.Failover) }},
		"failover's time":         {"failover", `{"leader":"a","scheduled_at":"tomorrow"}`, func(t *testing.T, v *View) { require.Nil(t, v.Failover) }},
		"failover without a zone": {"failover", `{"leader":"a","scheduled_at":"2026-12-01T10:00:00"}`, func(t *testing.T, v *View) { require.Nil(t, v.Failover) }},
		"failover to no name":     {"failover", `{"member":"a/b"}`, func(t *testing.T, v *View) { require.Nil(t, v.Failover) }},
		"sync":                    {"sync", "x", func(t *testing.T, v *View) { require.Zero(t, v.Sync) }},
		"history":                 {"history", "{}", func(t *testing.T, v *View) { require.Len(t, v.History, 0) }},
		"history's line":          {"history", `[[1,2,"x"],["x"],[3,4,"y"]]`, func(t *testing.T, v *View) { require.Equal(t, int64(3), v.History[2].Timeline) }},
		"status":                  {"status", "null!", func(t *testing.T, v *View) { require.Zero(t, v.Status) }},
		"failsafe":                {"failsafe", "[]", nobodyIn},
		"failsafe null":           {"failsafe", "null", nobodyIn},
		"empty failsafe value":    {"failsafe", "", nobodyIn},
		"failsafe's member":       {"failsafe", `{"b":"http://b:1/","a":7}`, nobodyIn},
		"failsafe's address":      {"failsafe", `{"b":"http://b:1/","a":"b:1"}`, nobodyIn},
		"failsafe's TTL":          {"failsafe", `{"b":"http://b:1/#ttl=x"}`, nobodyIn},
		"keeper":                  {"keeper", "x", func(t *testing.T, v *View) { require.Equal(t, &Keeper{}, v.Keeper) }},
		"keeper's token":          {"keeper", `{"name":"b","instance":"i","token":"x"}`, func(t *testing.T, v *View) { require.Equal(t, &Keeper{}, v.Keeper) }},
		"keeper without a name":   {"keeper", `{"instance":"i","token":1}`, func(t *testing.T, v *View) { require.Equal(t, &Keeper{}, v.Keeper) }},
	} {
		t.Run(name, func(t *testing.T) {
			v := Decode("pg", tree(map[string]string{x.key: x.value, "initialize": "1", "members/z": `{"state":"running"}`}), last)
			require.Len(t, v.Problems, 1)
			require.Equal(t, "pg/"+x.key, v.Problems[0].Key)
			require.Error(t, v.Problem(x.key))
			require.NoError(t, v.Problem("initialize"))
			require.Equal(t, Initialize("1"), v.Initialize)
			_, there := v.Member("z")
			require.True(t, there)
			x.check(t, v)
		})
	}
}

func nobodyIn(t *testing.T, v *View) {
	t.Helper()
	require.False(t, v.Failsafe.Empty())
	require.False(t, v.Failsafe.Contains("b"))
}

// The configuration of a first View is its readable part.
func TestDecodeFirstConfig(t *testing.T) {
	v := Decode("pg", tree(map[string]string{"config": `{"ttl":"x","pause":1}`}), nil)
	require.True(t, v.Config.Pause)
	require.Len(t, v.Problems, 1)
}

// records are those of v that can be written.
func (v *View) records() []Record {
	out := []Record{v.Config, v.Initialize, v.Sync, v.Status, v.History, v.Failsafe}
	if v.Failover != nil {
		out = append(out, *v.Failover)
	}
	if v.Keeper != nil {
		out = append(out, *v.Keeper)
	}
	return out
}

// Fields that the package does not know survive a rewrite, and a value that was
// decoded is encoded to the same.
func TestUnknownFieldsSurvive(t *testing.T) {
	values := map[string]string{
		"members/a": `{"api_url":"http://a:1/x?a=b&c=<d>","xyz":{"b":[1,2.50],"a":12345678901234567890},"timeline":"three"}`,
		"config":    `{"postgresql":{"parameters":{"a":"<&>"}},"ttl":6.5,"loop_wait":"x"}`,
		"failover":  `{"leader":"a","reason":"disk"}`,
		"sync":      `{"leader":"a","more":null}`,
		"status":    `{"optime":5,"more":1e3}`,
		"history":   `[[1,2,"x","t","a",{"more":1}],"odd"]`,
		"keeper":    `{"name":"a","instance":"i","token":9,"more":true}`,
	}
	v := Decode("pg", tree(values), nil)
	txn, err := v.ForcedTxn(v.records()...)
	require.NoError(t, err)
	got := map[string]string{}
	for _, w := range txn.Then {
		got[strings.TrimPrefix(w.Key, "pg/")] = string(w.Value)
	}
	m, err := v.Members[0].Encode()
	require.NoError(t, err)
	got["members/a"] = string(m)
	for key, value := range values {
		if now, rewritten := got[key]; rewritten {
			require.JSON(t, value, now, key)
		}
	}
	require.Contains(t, got["members/a"], "12345678901234567890")
	require.Contains(t, got["members/a"], "<d>")
}

// A known field replaces the stored one, a cleared one goes.
func TestKnownFieldsWin(t *testing.T) {
	v := Decode("pg", tree(map[string]string{"config": `{"ttl":"x","pause":true,"maximum_lag_on_failover":5}`}), nil)
	v.Config.TTL, v.Config.Pause = 30*time.Second, false
	txn, err := v.Txn(v.Config)
	require.NoError(t, err)
	require.JSON(t, `{"ttl":30,"maximum_lag_on_failover":5}`, string(txn.Then[0].Value))
}

// The leader's TTL is stored where Patroni does not see it.
func TestFailsafeTTL(t *testing.T) {
	f := Failsafe{Members: map[string]string{"a": "http://a:1/x", "b": "https://[::1]:2"}, TTL: 6500 * time.Millisecond}
	value, err := f.encode()
	require.NoError(t, err)
	require.JSON(t, `{"a":"http://a:1/x#ttl=6.5s","b":"https://[::1]:2#ttl=6.5s"}`, string(value))
	back, err := decodeFailsafe(value)
	require.NoError(t, err)
	require.Equal(t, f, back)
	empty, err := Failsafe{}.encode()
	require.NoError(t, err)
	back, err = decodeFailsafe(empty)
	require.NoError(t, err)
	require.True(t, back.Empty())
}

func TestHistoryAppend(t *testing.T) {
	h := History{{Timeline: 1}, {Timeline: 2}}
	got := h.Append(Line{Timeline: 3, Leader: "a"}, 2)
	require.Equal(t, History{{Timeline: 2}, {Timeline: 3, Leader: "a"}}, got)
	require.Len(t, h, 2)
	require.Len(t, h.Append(Line{}, 0), 3)
	odd := History{{Raw: []byte(`"odd"`)}, {Timeline: 1}, {Raw: []byte(`[]`)}, {Timeline: 2}}
	require.Equal(t, History{odd[0], odd[2], {Timeline: 3}}, odd.Append(Line{Timeline: 3}, 1))
	require.Equal(t, int64(1), odd[1].Timeline)
}

// FuzzDecode requires that no value makes the decoder fail, that a decoded value is
// encoded again unless it is refused, and that this is decoded to the same.
func FuzzDecode(f *testing.F) {
	keys := []string{"leader", "members/a", "config", "initialize", "failover", "sync", "history", "status", "failsafe", "keeper", "optime/leader"}
	for key, value := range patroni {
		f.Add(uint8(slices.Index(keys, key)), []byte(value))
	}
	for i := range keys {
		f.Add(uint8(i), []byte(`{"name":"a","instance":"i","token":1,"ttl":-1,"x":[1]}`))
	}
	f.Fuzz(func(t *testing.T, i uint8, value []byte) {
		key := keys[int(i)%len(keys)]
		v := Decode("pg", tree(map[string]string{key: string(value)}), nil)
		for _, p := range v.Problems {
			_ = p.String()
		}
		for _, m := range v.Members {
			if raw, err := m.Encode(); err == nil {
				back, _ := decodeMember(m.Name, dcs.Entry{Value: raw, Created: m.Created, Modified: m.Modified})
				sameMember(t, m, back)
			}
		}
		for _, r := range v.records() {
			raw, err := r.encode()
			if err != nil || len(raw) == 0 && r.key() != InitializeKey {
				continue
			}
			back := Decode("pg", tree(map[string]string{r.key(): string(raw)}), nil)
			for _, again := range back.records() {
				if again.key() == r.key() {
					sameRecord(t, r, again)
				}
			}
		}
	})
}

func sameRecord(t *testing.T, a, b Record) {
	t.Helper()
	x, errX := a.encode()
	y, errY := b.encode()
	require.NoError(t, errX)
	require.NoError(t, errY)
	require.Equal(t, string(x), string(y))
}

func sameMember(t *testing.T, a, b Member) {
	t.Helper()
	x, _ := a.Encode()
	y, err := b.Encode()
	require.NoError(t, err)
	require.JSON(t, string(x), string(y))
	require.Equal(t, fmt.Sprint(len(a.Extra), a.Position, a.Name), fmt.Sprint(len(b.Extra), b.Position, b.Name))
	for name := range a.Extra {
		require.True(t, json.Valid(b.Extra[name]), name)
	}
}

// A View is the same whether it was decoded after an earlier one or alone.
func TestDecodeAfterAnEarlierView(t *testing.T) {
	member := func(state string) string { return `{"state":"` + state + `","tags":{"nofailover":true}}` }
	trees := []map[string]string{
		{"members/a": member("running"), "members/b": member("running"), "members/c": member("running")},
		{"members/a": member("running"), "members/b": member("stopped"), "members/c": member("running")},
		{"members/a": member("running"), "members/c": member("running"), "members/d": member("running")},
		{"members/a": `{"state":1}`, "members/c": "no object", "members/d": member("running")},
		{"members/a": `{"state":1}`, "members/aa": member("running"), "members/c": "no object"},
		{},
	}
	for i, before := range trees {
		for j, after := range trees {
			last := Decode("pg", tree(before), nil)
			want, got := Decode("pg", tree(after), nil), Decode("pg", tree(after), last)
			require.Equal(t, want, got, i, j)
		}
	}
}
