package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// History is when and why the cluster changed its leader, oldest first.
type History []Line

// Line is one change of the leader.
type Line struct {
	// Timeline is the timeline that ended, Position where it ended. For a service
	// without timelines Timeline is the fencing token of the leadership that begins.
	Timeline, Position int64
	// Reason is free text.
	Reason string
	// Time is when, as text in RFC 3339; Leader is the member that leads from then
	// on. Old lines have neither.
	Time, Leader string
	// Extra are further elements of the line.
	Extra []json.RawMessage
	// Raw is a line that is not readable. It is written back unchanged, and the
	// other fields are empty.
	Raw json.RawMessage
}

// Append returns h with line at its end, without its oldest lines beyond limit. Lines
// that are not readable are not counted, and stay. A limit of 0 is none.
func (h History) Append(line Line, limit int) History {
	out := append(h[:len(h):len(h)], line)
	if limit <= 0 {
		return out
	}
	excess := -limit
	for _, l := range out {
		if l.Raw == nil {
			excess++
		}
	}
	return slices.DeleteFunc(out, func(l Line) bool {
		if l.Raw != nil || excess <= 0 {
			return false
		}
		excess--
		return true
	})
}

func (History) key() string      { return HistoryKey }
func (History) leaderOnly() bool { return true }

func (h History) encode() ([]byte, error) {
	out := make([]any, len(h))
	for i, l := range h {
		if l.Raw != nil {
			if !json.Valid(l.Raw) {
				return nil, fmt.Errorf("line %d: Raw is not JSON", i)
			}
			out[i] = l.Raw
			continue
		}
		if l.Timeline < 0 || l.Position < 0 {
			return nil, fmt.Errorf("line %d: timeline %d and position %d must not be negative", i, l.Timeline, l.Position)
		}
		fields := []any{l.Timeline, l.Position, l.Reason}
		switch {
		case l.Leader != "" || len(l.Extra) > 0:
			fields = append(fields, l.Time, l.Leader)
		case l.Time != "":
			fields = append(fields, l.Time)
		}
		for _, e := range l.Extra {
			fields = append(fields, e)
		}
		out[i] = fields
	}
	return encode(out)
}

func decodeHistory(value []byte) (History, []error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(value, &raw); err != nil || raw == nil {
		return nil, []error{errors.New("the value is not a JSON list")}
	}
	var faults []error
	h := make(History, len(raw))
	for i, r := range raw {
		l, err := decodeLine(r)
		if err != nil {
			l = Line{Raw: r}
			faults = append(faults, fmt.Errorf("line %d: %w", i, err))
		}
		h[i] = l
	}
	return h, faults
}

func decodeLine(raw json.RawMessage) (Line, error) {
	var l Line
	var fields []json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || len(fields) < 3 {
		return l, errors.New("want a list of timeline, position and reason")
	}
	for i, into := range []any{&l.Timeline, &l.Position, &l.Reason, &l.Time, &l.Leader} {
		if i < len(fields) && json.Unmarshal(fields[i], into) != nil {
			return l, fmt.Errorf("element %d has another type", i)
		}
	}
	if len(fields) > 5 {
		l.Extra = fields[5:]
	}
	return l, nil
}
