package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// network answers at addresses. One that it does not know hangs, and ignores its
// context.
type network map[string]func() (Identity, error)

func (n network) Ask(_ context.Context, apiURL string) (Identity, error) {
	if f := n[apiURL]; f != nil {
		return f()
	}
	time.Sleep(time.Hour)
	return Identity{}, errors.New("too late")
}

// is answers as one member of the cluster "pg".
func is(name string, position int64) func() (Identity, error) {
	return func() (Identity, error) {
		return Identity{Scope: "pg", Name: name, Instance: "i-" + name, Position: position}, nil
	}
}

// A text that another member chooses is cut.
func TestVerifyCutsLongTexts(t *testing.T) {
	long := strings.Repeat("é", 1<<15)
	for _, id := range []Identity{{Scope: long, Name: long}, {Scope: "pg", Name: long}, {Scope: "pg", Name: "b", Instance: long}, {}} {
		asker := network{"http://b": func() (Identity, error) {
			if id == (Identity{}) {
				return id, errors.New(long)
			}
			return id, nil
		}}
		v := &View{Scope: "pg", Members: []Member{{Name: "b", Instance: "i", APIURL: "http://b"}}}
		found := Verify(t.Context(), v, Identity{Scope: "pg", Name: "a", Instance: "i-a"}, asker)
		require.Len(t, found, 1)
		require.True(t, len(found[0].Detail) < 700)
	}
}

func TestVerify(t *testing.T) {
	member := func(name, api string) Member {
		return Member{Name: name, Instance: "i-" + name, APIURL: api, Position: 5}
	}
	for name, x := range map[string]struct {
		members []Member
		network network
		want    []string
	}{
		"all is well": {
			[]Member{member("a", "http://a"), member("b", "http://b"), {Name: "p", APIURL: "http://p", Position: 5}},
			network{"http://a": is("a", 5), "http://b": is("b", 5), "http://p": is("p", 5)},
			nil,
		},
		"no address":     {[]Member{member("b", "")}, nil, []string{"b unreachable"}},
		"a hanging one":  {[]Member{member("a", "http://a"), member("b", "http://b")}, network{"http://a": is("a", 5)}, []string{"b unreachable"}},
		"refused":        {[]Member{member("b", "http://b")}, network{"http://b": func() (Identity, error) { return Identity{}, errors.New("refused") }}, []string{"b unreachable"}},
		"another member": {[]Member{member("b", "http://b")}, network{"http://b": is("c", 5)}, []string{"b wrong member"}},
		"another process": {
			[]Member{{Name: "b", Instance: "old", APIURL: "http://b"}}, network{"http://b": is("b", 5)}, []string{"b wrong member"},
		},
		"a loopback address": {
			[]Member{member("a", "http://127.0.0.1"), member("b", "http://localhost")},
			network{"http://127.0.0.1": is("a", 5), "http://localhost": is("a", 5)},
			[]string{"a shared address", "b reaches the asking member itself", "b shared address"},
		},
		"the own address is another's": {[]Member{member("a", "http://a")}, network{"http://a": is("b", 5)}, []string{"a wrong member"}},
		"one address": {
			[]Member{member("b", "http://X/"), member("c", "http://x")},
			network{"http://X/": is("b", 5), "http://x": is("b", 5)},
			[]string{"b shared address", "c wrong member", "c shared address"},
		},
		"another cluster": {
			[]Member{member("b", "http://b")},
			network{"http://b": func() (Identity, error) {
				return Identity{Scope: "other", Name: "b", Instance: "i-b"}, nil
			}},
			[]string{"b other scope"},
		},
		"it has moved on": {[]Member{member("b", "http://b")}, network{"http://b": is("b", 8)}, []string{"b position differs"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				start := time.Now()
				v := &View{Scope: "pg", Members: x.members}
				found := Verify(ctx, v, Identity{Scope: "pg", Name: "a", Instance: "i-a"}, x.network)
				require.True(t, time.Since(start) <= 2*time.Second)
				var got []string
				for _, f := range found {
					got = append(got, fmt.Sprint(f.Member, " ", f.Kind))
					require.Equal(t, f.Kind != PositionDiffers, f.Disqualifies())
					require.True(t, strings.HasPrefix(f.String(), `member "`+f.Member))
					if f.Kind == PositionDiffers {
						require.Equal(t, []int64{5, 8}, []int64{f.Stored, f.Live})
					}
				}
				require.Equal(t, x.want, got)
				time.Sleep(2 * time.Hour) // the answer that is too late has come
			})
		})
	}
}
