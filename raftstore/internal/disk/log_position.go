package disk

import (
	"cmp"
	"fmt"
)

// A Position is a place in the log: an offset in the segment of that number.
// The first segment has number 1, so that the zero Position lies before every
// record.
type Position struct {
	Segment uint64
	Offset  int64
}

// Compare returns -1, 0 or 1 as p lies before, at or behind q.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Segment, q.Segment), cmp.Compare(p.Offset, q.Offset))
}

// String returns segment and offset.
func (p Position) String() string { return fmt.Sprintf("segment %d, offset %d", p.Segment, p.Offset) }

// A LogEnd is an end of the log: the place behind its last record, and index
// and term of the last entry before that place. For an empty log they are those
// of the last entry that was cut off at the front, which a snapshot holds. The
// zero LogEnd is that of a log that never held a record.
type LogEnd struct {
	Position
	Index, Term uint64
}

// A ShortError says that the log ends, undamaged, before an end that the mark
// calls durable: the log was cut, replaced by an older copy, or removed.
type ShortError struct {
	Dir       string
	Have, Had LogEnd
}

// Error implements error.
func (e *ShortError) Error() string {
	return fmt.Sprintf("the log in %s ends at %v (entry %d), but it once was durable up to %v (entry %d): the rest is missing",
		e.Dir, e.Have.Position, e.Have.Index, e.Had.Position, e.Had.Index)
}
