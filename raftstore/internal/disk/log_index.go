package disk

import (
	"fmt"
	"slices"
)

// logIndex knows which entries the log holds and where they are.
type logIndex struct {
	logRange
	base   uint64  // the entries up to base are in no segment that was read
	places []place // of the entries behind base
}

// apply applies a record.
func (x *logIndex) apply(c *change) error {
	switch c.kind {
	case recordEntry:
		return x.append(c)
	case recordCutBack:
		if c.index < x.floor || c.index > x.last {
			return fmt.Errorf("a cut back to entry %d of %d to %d", c.index, x.floor+1, x.last)
		}
		if c.index <= x.base {
			x.base, x.places = c.index, x.places[:0]
		} else {
			x.places = x.places[:c.index-x.base]
		}
		x.last, x.term = c.index, c.term
	case recordCutFront:
		if c.index < x.floor || c.index >= x.last {
			return fmt.Errorf("a cut up to entry %d of %d to %d", c.index, x.floor+1, x.last)
		}
		if c.index > x.base {
			x.base, x.places = c.index, slices.Clone(x.places[c.index-x.base:])
		}
		x.floor, x.floorTerm = c.index, c.term
	case recordCutAll:
		*x = logIndex{logRange: logRange{c.index, c.term, c.index, c.term}, base: c.index}
	}
	return nil
}

func (x *logIndex) append(c *change) error {
	if x.isEmpty() && c.index != x.floor+1 && c.index > 0 {
		// A snapshot was installed, and the entries go on behind it.
		*x = logIndex{logRange: logRange{floor: c.index - 1, last: c.index - 1}, base: c.index - 1}
	}
	if c.index != x.last+1 {
		return fmt.Errorf("entry %d behind entry %d", c.index, x.last)
	}
	x.places = append(x.places, c.place)
	x.last, x.term = c.index, c.term
	return nil
}

// place returns where an entry is. It reports false if the log does not hold
// the entry.
func (x *logIndex) place(index uint64) (place, bool) {
	if index <= x.floor || index > x.last || index <= x.base {
		return place{}, false
	}
	return x.places[index-x.base-1], true
}

// termOf returns the term of an entry, or of the one before the first.
func (x *logIndex) termOf(index uint64) uint64 {
	if index == x.floor {
		return x.floorTerm
	}
	p, _ := x.place(index)
	return p.term
}

// continues reports whether the log continues a snapshot that ends at the entry
// of that index and term.
func (x *logIndex) continues(index, term uint64) bool {
	return index <= x.last && (index <= x.floor || x.termOf(index) == term)
}

// keep returns the first entry of those that stay if at most so many entries
// and bytes do.
func (x *logIndex) keep(entries uint64, bytes int64) uint64 {
	first := x.last + 1
	for first > x.floor+1 && x.last+1-first < entries {
		p, _ := x.place(first - 1)
		if bytes -= p.size; bytes < 0 {
			break
		}
		first--
	}
	return first
}

// live returns the number of the oldest segment that holds an entry of the log,
// or most if none does.
func (x *logIndex) live(most uint64) uint64 {
	if p, ok := x.place(x.floor + 1); ok {
		return min(most, p.segment)
	}
	return most
}
