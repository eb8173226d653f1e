package transport

import (
	"errors"
	"sync"
)

// refusals remembers which nodes refuse this one, or are refused by it, in a
// way that trying again will not correct: with a certificate of another
// authority, for one. A node that is kept out so never hears of a leader, and
// its callers need the reason.
type refusals struct {
	mu   sync.Mutex
	last map[string]error // by the address that was dialled
}

// dialled notes how a dial ended; any other end says nothing about the other
// node's mind.
func (r *refusals) dialled(addr string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		delete(r.last, addr)
	case errors.Is(err, ErrPeerRefused):
		if r.last == nil {
			r.last = map[string]error{}
		}
		r.last[addr] = err
	}
}

// exclusion returns one of the refusals in force if there are so many that
// the rest of a cluster of size nodes is no majority: then they are the reason
// why no leader is known. Else it returns nil.
func (r *refusals) exclusion(size int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size-len(r.last) > size/2 {
		return nil
	}
	for _, err := range r.last {
		return err
	}
	return nil
}

// everywhere returns one of the refusals in force if every one of these addresses is
// refused, else nil.
func (r *refusals) everywhere(addrs []string) (why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range addrs {
		if why = r.last[addr]; why == nil {
			return nil
		}
	}
	return why
}

// Exclusion returns one of the refusals in force if so many nodes of a cluster of
// that size refuse this one, or are refused by it, that the rest is no majority.
// Then they are the reason why this node knows no leader. Else it returns nil.
func (n *Network) Exclusion(size int) error { return n.outcast.exclusion(size) }
