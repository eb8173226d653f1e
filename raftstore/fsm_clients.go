package raftstore

const (
	// maxClients bounds the memory of clients that are gone. The one that was
	// silent for the longest part of the log is forgotten, never one by time.
	maxClients = 4096
	// clientWindow bounds the commands of one client that are not settled.
	clientWindow = 1024
)

// clients is what makes a command land at most once (P15).
type clients struct {
	byID map[uint64]*client
	most int
}

// client is one user of the log. Its id is the index of the entry that made it.
type client struct {
	last    uint64 // index of its newest command
	low     uint64 // what is below was answered; no copy of it is executed
	results map[uint64]result
}

func newClients() clients { return clients{byID: map[uint64]*client{}, most: maxClients} }

func (s *clients) open(index uint64) {
	s.byID[index] = &client{last: index, results: map[uint64]result{}}
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

// once answers a numbered command: from memory where it was executed before,
// by execute where it was not and may still be.
func (s *clients) once(cmd *command, index uint64, execute func() result) result {
	c, ok := s.byID[cmd.client]
	if !ok {
		return result{status: statusUnknownClient}
	}
	c.last = index
	if cmd.low > c.low {
		for seq := range c.results {
			if seq < cmd.low {
				delete(c.results, seq)
			}
		}
		c.low = cmd.low
	}
	if cmd.seq < c.low {
		return result{status: statusSettled}
	}
	if r, ok := c.results[cmd.seq]; ok {
		return r
	}
	if cmd.seq-c.low >= clientWindow {
		return result{status: statusAhead}
	}
	r := execute()
	c.results[cmd.seq] = r
	return r
}
