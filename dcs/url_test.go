package dcs

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]URL{
		"mem://name/root":           {Scheme: "mem", Hosts: []string{"name"}, Path: "/root"},
		"mem://":                    {Scheme: "mem"},
		"RAFT:///data/dir?id=a":     {Scheme: "raft", Path: "/data/dir", Params: map[string]string{"id": "a"}},
		"etcd3://h1:2379,h2:2379/r": {Scheme: "etcd3", Hosts: []string{"h1:2379", "h2:2379"}, Path: "/r"},
		"zookeeper://[::1]:2181,[2001:db8::7],10.0.0.1:2181": {Scheme: "zookeeper", Hosts: []string{"[::1]:2181", "[2001:db8::7]", "10.0.0.1:2181"}},
		"consul://[fe80::1%25eth0]:8500":                     {Scheme: "consul", Hosts: []string{"[fe80::1%eth0]:8500"}},
		"raft:///d?peers=a=h1:7000,b=h2:7000&root=/x/y":      {Scheme: "raft", Path: "/d", Params: map[string]string{"peers": "a=h1:7000,b=h2:7000", "root": "/x/y"}},
		"mem://n/a%20b%2Fc%40?x=1%2B1&y=a+b&z=%C3%BC":        {Scheme: "mem", Hosts: []string{"n"}, Path: "/a b/c@", Params: map[string]string{"x": "1+1", "y": "a+b", "z": "\u00fc"}},
		"mem://h?x=": {Scheme: "mem", Hosts: []string{"h"}, Params: map[string]string{"x": ""}},
		"mem://h?password_file=/run/x&token_env=T":   {Scheme: "mem", Hosts: []string{"h"}, Params: map[string]string{"password_file": "/run/x", "token_env": "T"}},
		"a+b-c.1://my_host:65535/":                   {Scheme: "a+b-c.1", Hosts: []string{"my_host:65535"}, Path: "/"},
		"mem://h1,%20h2%20,h1,H2":                    {Scheme: "mem", Hosts: []string{"h1", "h2"}},
		"mem://h1:2379,H1:2379":                      {Scheme: "mem", Hosts: []string{"h1:2379"}},
		"mem://h:02379/":                             {Scheme: "mem", Hosts: []string{"h:2379"}, Path: "/"},
		"mem://h//x//?a1=https://example.com/?q":     {Scheme: "mem", Hosts: []string{"h"}, Path: "//x//", Params: map[string]string{"a1": "https://example.com/?q"}},
		"mem://h/" + strings.Repeat("p", 2000):       {Scheme: "mem", Hosts: []string{"h"}, Path: "/" + strings.Repeat("p", 2000)},
		"mem://h/:,;=&x!$'()*~?v=:,;=!$'()*~/%26%3D": {Scheme: "mem", Hosts: []string{"h"}, Path: "/:,;=&x!$'()*~", Params: map[string]string{"v": ":,;=!$'()*~/&="}},
	} {
		u, err := ParseURL(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if u.Scheme != want.Scheme || !slices.Equal(u.Hosts, want.Hosts) || u.Path != want.Path || !maps.Equal(u.Params, want.Params) {
			t.Errorf("%s: %+v, want %+v", raw, *u, want)
		}
		roundTrip(t, u)
	}
}

func TestParseURLRefuses(t *testing.T) {
	for raw, says := range map[string]string{ //nolint:gosec // G101: credentials that must be refused
		"":                                 "no scheme: write it like mem://name/root",
		"h1:2379":                          "no scheme",
		"://h":                             "scheme is not a name",
		"1a://h":                           "scheme is not a name",
		"a_b://h":                          "scheme is not a name",
		"mem://user:hunter2@h1/r":          "take them from a file or the environment",
		"mem://h1/r?x=hunter2@h":           "write @ as %40",
		"mem://hunter2#frag":               "has no fragment",
		"mem://h1,,h2":                     "the URL's host 2: the host is empty",
		"mem://h1,":                        "the URL's host 2: the host is empty",
		"mem://:2379":                      "the URL's host 1: the host is empty",
		"mem://%20":                        "the URL's host 1: the host is empty",
		"mem://h1%20h2":                    "not a host name",
		"mem://h1:hunter2":                 "the port is not a number from 1 to 65535",
		"mem://h1:0":                       "the port is not a number",
		"mem://h1:65536":                   "the port is not a number",
		"mem://h1:+1":                      "the port is not a number",
		"mem://h1:":                        "the port is not a number",
		"mem://::1":                        "write an IPv6 address in brackets",
		"mem://[::1":                       `"[" without "]"`,
		"mem://[10.0.0.1]":                 "not an IPv6 address",
		"mem://[::1]2379":                  "the port is not a number",
		"mem://[fe80::1%25a%2Fb]":          "not an IPv6 address",
		"mem://h%31":                       "not a host name",
		"mem://h/a b":                      "byte 9 of the URL is 0x20: write it as %20",
		"mem://h/\u00fc":                   "byte 8 of the URL is 0xc3: write it as %C3",
		"mem://h/%zz":                      "two hexadecimal digits",
		"mem://h/%2":                       "two hexadecimal digits",
		"mem://h/%00":                      "control character 0x00",
		"mem://h?x=%0A":                    `option "x": control character 0x0a`,
		"mem://h?x=%":                      `option "x": a "%" without two`,
		"mem://h?x":                        `option "x" has no value: write x=value`,
		"mem://h?=1":                       "option 1 of the URL has no name",
		"mem://h?x=1&":                     "option 2 of the URL has no name",
		"mem://h?X=1":                      "option 1 of the URL has no name of lower-case letters",
		"mem://h?x=1&y=2&x=3":              `option "x" is given twice`,
		"mem://h?password=hunter2":         `option "password" would carry a secret in the URL: take it from a file or the environment`,
		"mem://h?acl_token=hunter2":        `option "acl_token" would carry a secret`,
		"mem://h?tls_passphrase=hunter2":   `option "tls_passphrase" would carry a secret`,
		"mem://user:hun/ter2@h1/r":         "take them from a file or the environment",
		"mem://user:hun?ter2@h1/r":         "take them from a file or the environment",
		"mem://user:hun#ter2@h1/r":         "take them from a file or the environment",
		"mem://user:hun ter2\x00%@h1/r":    "take them from a file or the environment",
		"mem:/hunter2/" + string(rune(65)): "no scheme",
	} {
		u, err := ParseURL(raw)
		if u != nil || KindOf(err) != ErrInvalid || !strings.Contains(errText(err), says) {
			t.Errorf("%q: %v, want ErrInvalid that says %q", raw, err, says)
		}
		if text := errText(err); strings.Contains(text, "hun") || strings.Contains(text, "ter2") {
			t.Errorf("%q: the error repeats a secret: %s", raw, text)
		}
	}
}

// A URL that was built by hand prints no secret either.
func TestURLStringHidesSecrets(t *testing.T) {
	u := URL{Scheme: "mem", Hosts: []string{"user:hunter2@h1:1"}, Path: "/r", Params: map[string]string{"password": "hunter2", "id": "a"}}
	if got, want := u.String(), "mem://h1:1/r?id=a&password=xxxxx"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// roundTrip checks that the result of String is parsed as the same URL.
func roundTrip(t *testing.T, u *URL) {
	t.Helper()
	text := u.String()
	again, err := ParseURL(text)
	if err != nil {
		t.Fatalf("%+v prints as %s, which is refused: %v", *u, text, err)
	}
	if u.Scheme != again.Scheme || !slices.Equal(u.Hosts, again.Hosts) || u.Path != again.Path || !maps.Equal(u.Params, again.Params) || again.String() != text {
		t.Fatalf("%+v prints as %s, which is read as %+v", *u, text, *again)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{
		"mem://name/root", "raft:///data?id=a&peers=a=h1:1,b=h2:2", "etcd3://h1:1,[::1]:2,[fe80::1%25eth0]/r?x=%41",
		"mem://user:secret@h", "mem://h?password=x", "mem://h/%", "mem://h?x=%0a", "mem://,", "://", "mem://h?&&", "A://h1:00001?z=&a=/?",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := ParseURL(raw)
		if strings.Contains(raw, "@") && errText(err) != "dcs: ParseURL: invalid argument: "+errUserinfo.Error() {
			t.Fatalf("a URL that may contain a password is answered with %v", err)
		}
		if err != nil {
			if u != nil || KindOf(err) != ErrInvalid || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		for name := range u.Params {
			if secretName(name) {
				t.Fatalf("%q: option %q was accepted", raw, name)
			}
		}
		roundTrip(t, u)
	})
}
