package dcs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// URL is a parsed store URL of the form
//
//	scheme://host[:port][,host[:port]…][/path][?option=value[&option=value…]]
//
// Path and values are percent-decoded. A plus sign stands for itself. Characters
// outside printable ASCII, spaces, "@", "#" and "%" must be written as %XX.
type URL struct {
	// Scheme is in lower case.
	Scheme string
	// Hosts are host or host:port, with IPv6 addresses in brackets, each once. The
	// list may be empty. See [ParseHosts].
	Hosts []string
	// Path has its leading slash and is unescaped. It may be empty.
	Path string
	// Params are the options given. [Open] removes those that are common to
	// all stores before a [Driver] sees it.
	Params map[string]string
}

// ParseURL parses a store URL. It checks the form only. [Open] also checks that the
// scheme and the options exist. Errors are ErrInvalid and name the fault. They never
// repeat the URL, which might contain a secret by mistake.
func ParseURL(raw string) (*URL, error) {
	u, err := parseURL(raw)
	if err != nil {
		return nil, &Error{Op: "ParseURL", Kind: ErrInvalid, Err: err}
	}
	return u, nil
}

var errUserinfo = errors.New("the URL contains \"@\": a user or password does not belong in a URL, take them from a file or the environment; in a path or value write @ as %40")

func parseURL(raw string) (*URL, error) {
	// This comes before every error that shows a part of the URL. A URL with an @
	// may contain a password, and its position is not known.
	if strings.Contains(raw, "@") {
		return nil, errUserinfo
	}
	for i := range len(raw) {
		if c := raw[i]; c <= 0x20 || c > 0x7e {
			return nil, fmt.Errorf("byte %d of the URL is 0x%02x: write it as %%%02X", i, c, c)
		}
	}
	if strings.Contains(raw, "#") {
		return nil, errors.New("the URL contains \"#\": a store URL has no fragment, in a path or value write # as %23")
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errors.New("the URL has no scheme: write it like mem://name/root")
	}
	u := &URL{Scheme: strings.ToLower(scheme)}
	if !validScheme(u.Scheme) {
		return nil, errors.New("the URL's scheme is not a name: use letters, digits, \"+\", \"-\" and \".\", a letter first")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, slashPath := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, slashPath = rest[:i], rest[i:]
	}
	var err error
	if authority != "" {
		if u.Hosts, err = parseHosts(strings.Split(authority, ","), "", true); err != nil {
			return nil, fmt.Errorf("the URL's %w", err)
		}
	}
	if u.Path, err = unescape(slashPath); err != nil {
		return nil, fmt.Errorf("the URL's path: %w", err)
	}
	if u.Params, err = parseParams(query); err != nil {
		return nil, err
	}
	return u, nil
}

func validScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

func parseParams(query string) (map[string]string, error) {
	params := map[string]string{}
	if query == "" {
		return params, nil
	}
	for i, kv := range strings.Split(query, "&") {
		name, value, ok := strings.Cut(kv, "=")
		if !validOption(name) {
			return nil, fmt.Errorf("option %d of the URL has no name of lower-case letters, digits and \"_\": write options like ?ttl=30s&id=a", i+1)
		}
		if secretName(name) {
			return nil, fmt.Errorf("option %q would carry a secret in the URL: take it from a file or the environment", name)
		}
		if !ok {
			return nil, fmt.Errorf("option %q has no value: write %s=value", name, name)
		}
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("option %q is given twice: give it once", name)
		}
		value, err := unescape(value)
		if err != nil {
			return nil, fmt.Errorf("option %q: %w", name, err)
		}
		params[name] = value
	}
	return params, nil
}

func validOption(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (i == 0 || (c < '0' || c > '9') && c != '_') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// secretName reports whether an option of this name would have a secret as its value,
// and not the name of a file or variable that holds one.
func secretName(name string) bool {
	last := name[strings.LastIndexByte(name, '_')+1:]
	switch last {
	case "password", "passwd", "passphrase", "secret", "token", "credential", "credentials":
		return true
	}
	return false
}

// unescape decodes %XX. It refuses control characters, because no name of a file or
// key has them and log lines would break.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", errors.New("a \"%\" without two hexadecimal digits after it: write a percent sign as %25")
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", errors.New("a \"%\" without two hexadecimal digits after it: write a percent sign as %25")
			}
			c, i = byte(n), i+2
		}
		if c < 0x20 || c == 0x7f {
			return "", fmt.Errorf("control character 0x%02x: leave it out", c)
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// escape writes every byte of s that could be misread as %XX. keep lists the
// punctuation that is not escaped.
func escape(s, keep string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isAlnum(c) || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

const (
	keepInPath  = "/-._~!$'()*+,;=:[]&"
	keepInValue = "/-._~!$'()*+,;=:[]?"
)

// String writes u so that [ParseURL] returns the same again, with options in
// alphabetical order. It prints no secret. A parsed URL has none. In one that was
// built by hand, String leaves out a user, a password and the value of an option
// whose name is that of a secret.
func (u *URL) String() string {
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	for i, h := range u.Hosts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(escape(h[strings.LastIndexByte(h, '@')+1:], "[]:-._"))
	}
	b.WriteString(escape(u.Path, keepInPath))
	sep := byte('?')
	for _, name := range slices.Sorted(maps.Keys(u.Params)) {
		value := escape(u.Params[name], keepInValue)
		if secretName(name) {
			value = "xxxxx"
		}
		b.WriteByte(sep)
		b.WriteString(name + "=" + value)
		sep = '&'
	}
	return b.String()
}
