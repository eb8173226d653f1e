package raftstore

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// validRoot reports whether root follows the grammar of keys.
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

// provablyRemote reports whether host is certainly more than loopback. A name can be
// judged only by the addresses to which it resolves, when it is listened on or
// dialled.
func provablyRemote(host string) bool {
	if isWildcard(host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && !ip.Unmap().IsLoopback()
}

// memberIDs lists the names of all nodes, sorted.
func (c Config) memberIDs() []string {
	if len(c.Peers) == 0 {
		return []string{c.ID}
	}
	ids := make([]string, 0, len(c.Peers))
	for _, p := range c.Peers {
		ids = append(ids, p.ID)
	}
	slices.Sort(ids)
	return ids
}
