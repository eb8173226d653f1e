package state

// The bounds of the results that are kept for clients.
const (
	// maxClients bounds the memory of clients that are gone. The one that was
	// silent for the longest part of the log is forgotten, never one by time.
	maxClients = 4096
	// ClientWindow bounds the commands of one client that are not settled.
	ClientWindow = 1024
)

// clients makes a command apply at most once (P15).
type clients struct {
	byID map[uint64]*client
	most int
}

// client is one user of the log. Its id is the index of the entry that made it.
type client struct {
	last    uint64 // index of its newest command
	low     uint64 // commands below were answered; no copy of them is executed
	results map[uint64]Result
}

func newClients() clients { return clients{byID: map[uint64]*client{}, most: maxClients} }

func (s *clients) open(index uint64) {
	s.byID[index] = &client{last: index, results: map[uint64]Result{}}
	if len(s.byID) <= s.most {
		return
	}
	oldest := index
	for id, c := range s.byID {
		if c.last < s.byID[oldest].last {
			oldest = id
		}
	}
	delete(s.byID, oldest)
}

// settle forgets the results below low. A result is below it at most once, so
// that this costs no more than there are results.
func (c *client) settle(low uint64) {
	if low > c.low+ClientWindow {
		clear(c.results)
		c.low = low
	}
	for ; c.low < low; c.low++ {
		delete(c.results, c.low)
	}
}

// once looks a numbered command up. Either r is its answer, or execute says
// that it is to be executed now and its result kept with its client.
func (s *clients) once(cmd *Command, index uint64) (c *client, r Result, execute bool) {
	c, ok := s.byID[cmd.Client]
	if !ok {
		return nil, Result{Status: StatusUnknownClient}, false
	}
	c.last = index
	c.settle(cmd.Low)
	switch r, done := c.results[cmd.Seq]; {
	case cmd.Seq < c.low:
		return c, Result{Status: StatusSettled}, false
	case done:
		return c, r, false
	case cmd.Seq-c.low >= ClientWindow:
		return c, Result{Status: StatusAhead}, false
	}
	return c, Result{}, true
}
