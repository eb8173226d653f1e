package dcs

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParseHosts checks a list of servers by the rules for the hosts of a [URL]. Each
// is host or host:port, with IPv6 addresses in brackets. It is meant for the
// settings that a backend accepts in place of a URL. Spaces around a host are
// removed, and a host that is listed twice counts once. port is added to a host
// without one, unless port is empty. The error names every host that is wrong.
func ParseHosts(list []string, port string) ([]string, error) {
	return parseHosts(list, port, false)
}

// parseHosts is ParseHosts. escaped reports that the hosts are parts of a URL.
func parseHosts(list []string, port string, escaped bool) ([]string, error) {
	var (
		hosts  []string
		faults []error
		seen   = map[string]bool{}
	)
	for i, text := range list {
		host, given, err := parseHost(trimHost(text, escaped), escaped)
		if err != nil {
			faults = append(faults, fmt.Errorf("host %d: %w", i+1, err))
			continue
		}
		if given == "" {
			given = port
		}
		if given != "" {
			host += ":" + given
		}
		if name := strings.ToLower(host); !seen[name] {
			seen[name] = true
			hosts = append(hosts, host)
		}
	}
	if len(faults) > 0 {
		return nil, join(faults)
	}
	return hosts, nil
}

// trimHost returns a host without the spaces around it.
func trimHost(text string, escaped bool) string {
	space := " "
	if escaped {
		space = "%20"
	}
	for strings.HasPrefix(text, space) {
		text = text[len(space):]
	}
	for strings.HasSuffix(text, space) {
		text = text[:len(text)-len(space)]
	}
	return text
}

// parseHost returns the host and the port in text. The port may be empty. Errors do
// not repeat text, which may contain a password by mistake.
func parseHost(text string, escaped bool) (host, port string, err error) {
	switch {
	case strings.Contains(text, "@"):
		return "", "", errUserinfo
	case strings.Contains(text, "/"):
		return "", "", errors.New("write host:port, without a scheme or path")
	case strings.HasPrefix(text, "["):
		host, port, err = parseIPv6(text, escaped)
	default:
		var colon bool
		if host, port, colon = strings.Cut(text, ":"); colon {
			port = ":" + port
		}
		if strings.Count(port, ":") > 1 {
			return "", "", errors.New("more than one colon: write an IPv6 address in brackets, like [::1]:2379")
		}
		if !validName(host, false) {
			return "", "", errors.New("the host is empty or not a host name: use letters, digits, \".\", \"-\" and \"_\", and commas between hosts")
		}
	}
	if err != nil || port == "" {
		return host, "", err
	}
	n, err := strconv.ParseUint(port[1:], 10, 16)
	if err != nil || n == 0 || port[0] != ':' || port[1] == '+' {
		return "", "", errors.New("the port is not a number from 1 to 65535: write it like host:2379")
	}
	return host, strconv.FormatUint(n, 10), nil
}

// parseIPv6 returns the address in brackets and the text after it.
func parseIPv6(text string, escaped bool) (host, rest string, err error) {
	end := strings.IndexByte(text, ']')
	if end < 0 {
		return "", "", errors.New("\"[\" without \"]\": write an IPv6 address like [::1]:2379")
	}
	addr := text[1:end]
	if escaped {
		if addr, err = unescape(addr); err != nil {
			return "", "", err
		}
	}
	if ip, err := netip.ParseAddr(addr); err != nil || !ip.Is6() || !validName(ip.Zone(), true) {
		return "", "", errors.New("the text in brackets is not an IPv6 address: write it like [::1]:2379")
	}
	return "[" + addr + "]", text[end+1:], nil
}

func validName(s string, empty bool) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return empty || s != ""
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
