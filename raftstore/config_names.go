package raftstore

import (
	"net/netip"
	"strconv"
	"strings"
)

// validID keeps node names fit for file names, URLs and log lines.
func validID(id string) bool {
	if id == "" || len(id) > maxNodeID {
		return false
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case r == '.', r == '_', r == '-':
		default:
			return false
		}
	}
	return true
}

// validRoot holds the root to the grammar of keys.
func validRoot(root string) bool {
	if len(root) > maxRoot {
		return false
	}
	for part := range strings.SplitSeq(root, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
		for i := range len(part) {
			if part[i] <= ' ' || part[i] > '~' {
				return false
			}
		}
	}
	return true
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// isWildcard reports whether host stands for every address of the machine.
func isWildcard(host string) bool {
	if host == "" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsUnspecified()
}

// provablyRemote reports whether host is certainly more than loopback. A name
// can only be judged by what it resolves to, when it is listened on or dialled.
func provablyRemote(host string) bool {
	if isWildcard(host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && !ip.Unmap().IsLoopback()
}
