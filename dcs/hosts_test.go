package dcs

import (
	"slices"
	"strings"
	"testing"
)

// The same rules apply to a list of servers in settings and in URLs.
func TestParseHosts(t *testing.T) {
	for _, c := range []struct{ list, want []string }{
		{[]string{"h1", " h2:2379", "h3 "}, []string{"h1:7", "h2:2379", "h3:7"}},
		{[]string{"h", "h:7", "H:07", "h:8"}, []string{"h:7", "h:8"}},
		{[]string{"[::1]", "[fe80::1%eth0]:5", "10.0.0.1"}, []string{"[::1]:7", "[fe80::1%eth0]:5", "10.0.0.1:7"}},
		{nil, nil},
	} {
		got, err := ParseHosts(c.list, "7")
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q and %v, want %q", c.list, got, err, c.want)
		}
		u := URL{Scheme: "mem", Hosts: c.list}
		again, err := ParseURL(u.String())
		if err != nil {
			t.Errorf("%q in a URL: %v", c.list, err)
			continue
		}
		if got, err := ParseHosts(again.Hosts, "7"); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q in a URL: %q and %v, want %q", c.list, got, err, c.want)
		}
	}
	if got, err := ParseHosts([]string{"h", "h:1"}, ""); err != nil || !slices.Equal(got, []string{"h", "h:1"}) {
		t.Errorf("without a port: %q and %v", got, err)
	}
}

func TestParseHostsRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"": "the host is empty", " ": "the host is empty", ":2379": "the host is empty", "h1 h2": "not a host name",
		"h:": "the port is not a number", "h:0": "the port is not a number", "h:99999": "the port is not a number", "h:2379x": "the port is not a number",
		"::1": "in brackets", "h:1:2": "in brackets", "[::1": "without", "[h]:1": "not an IPv6 address", "[::1]x": "the port is not a number",
		"http://h:1": "without a scheme or path", "h:1/x": "without a scheme or path",
		"user:hunter2@h:1": "a file or the environment",
	} {
		_, err := ParseHosts([]string{"good", text}, "7")
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "host 2") {
			t.Errorf("%q: %v, want an error that says %q", text, err, says)
		}
		if strings.Contains(errText(err), "hunter2") {
			t.Errorf("%q: the error repeats a secret: %v", text, err)
		}
	}
	_, err := ParseHosts([]string{"h:", ":1"}, "7")
	if text := errText(err); !strings.Contains(text, "host 1") || !strings.Contains(text, "host 2") {
		t.Errorf("%v, want both faults", err)
	}
}
