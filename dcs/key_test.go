package dcs

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestCheckKey(t *testing.T) {
	every := ""
	for c := byte(0x20); c <= 0x7e; c++ {
		if c != '/' {
			every += string(rune(c))
		}
	}
	for _, key := range []string{
		"a", "leader", "members/a", "a/b/c", " ", "a b", "100%", "%2e%2e", "x" + every, "a/.hidden", "a/...",
		"~", "a/ /b", strings.Repeat("k", MaxKey), strings.Repeat("k/", MaxKey/2-1) + "kk",
	} {
		if err := CheckKey(key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	for key, says := range map[string]string{
		"":                                "empty: a key has 1 to 512 bytes",
		"/":                               "begins with a slash: leave it out",
		"/a":                              "begins with a slash: leave it out",
		"a/":                              "ends with a slash: leave it out",
		"a//b":                            "part 2 is empty: use single slashes",
		".":                               `part 1 is "."`,
		"..":                              `part 1 is ".."`,
		"a/./b":                           `part 2 is "."`,
		"a/b/..":                          `part 3 is ".."`,
		".hf/marker":                      "reserved for bookkeeping, use another one",
		"...":                             "reserved for bookkeeping",
		"a\x00":                           "byte 1 is 0x00: use printable ASCII only",
		"a\nb":                            "byte 1 is 0x0a",
		"\x7f":                            "byte 0 is 0x7f",
		"caf\u00e9":                       "byte 3 is 0xc3",
		"a\xff":                           "byte 1 is 0xff",
		strings.Repeat("k", MaxKey+1):     "513 bytes long: use at most 512",
		strings.Repeat("k/", MaxKey) + "": "1024 bytes long: use at most 512",
	} {
		err := CheckKey(key)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want ErrInvalid that says %q", key, err, says)
		}
		if prefixErr := CheckPrefix(key); (prefixErr == nil) != (key == "") {
			t.Errorf("as a prefix, %q: %v", key, prefixErr)
		}
	}
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		prefix, key string
		want        bool
	}{
		{"", "a", true},
		{"members/a", "members/a", true},
		{"members/a", "members/a/b", true},
		{"members/a", "members/ab", false},
		{"members", "member", false},
		{"a/b", "a", false},
		{"a", "a b", false},
	} {
		if got := Under(c.prefix, c.key); got != c.want {
			t.Errorf("Under(%q, %q) = %v", c.prefix, c.key, got)
		}
	}
}

// Every method refuses invalid keys before anything reaches the backend.
func TestHostileKeysAreNotSent(t *testing.T) {
	b := &scriptedSettler{}
	s := newStore(t, b, Options{})
	lease := &storeLease{s: s, l: &scriptedLease{renew: func(context.Context, []string) (Renewal, error) {
		b.sent.Add(1)
		return Renewal{}, nil
	}}}
	for _, key := range []string{"/", "a//b", "..", "a/", "\x00", ".hf", strings.Repeat("k", 513), "\u00fc"} {
		ctx := t.Context()
		_, get := s.Get(ctx, key)
		_, snapshot := s.Snapshot(ctx, key)
		_, wait := s.Wait(ctx, key, 0)
		_, commit := s.Commit(ctx, Txn{Then: []Write{Put("ok", nil), Put(key, nil)}})
		_, cond := s.Commit(ctx, Txn{If: []Cond{Absent(key)}, Then: []Write{Put("ok", nil)}})
		_, renew := lease.Renew(ctx, "ok", key)
		var watch error
		for _, err := range s.Watch(ctx, key) {
			watch = err
		}
		for method, err := range map[string]error{
			"Get": get, "Snapshot": snapshot, "Wait": wait, "Commit, a write": commit,
			"Commit, a condition": cond, "Renew": renew, "Watch": watch,
		} {
			if KindOf(err) != ErrInvalid {
				t.Errorf("%s(%q): %v", method, key, err)
			}
		}
	}
	if n := b.sent.Load(); n != 0 {
		t.Errorf("%d calls reached the backend", n)
	}
}

// grammar is the key grammar written for clarity and not for speed.
func grammar(key string) bool {
	if key == "" || len(key) > 512 || strings.HasPrefix(key, ".") {
		return false
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return false
		}
	}
	for _, part := range strings.Split(key, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"leader", "members/a", "", "/", "a//b", "a/../b", ".x", "a\x00", "\u00fc", strings.Repeat("a/", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := CheckKey(key)
		if (err == nil) != grammar(key) {
			t.Fatalf("%q: %v", key, err)
		}
		if (CheckPrefix(key) == nil) != (key == "" || err == nil) {
			t.Fatalf("as a prefix, %q", key)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, ErrInvalid) || strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1000 {
			t.Fatalf("%q: the message is %q", key, err)
		}
	})
}
