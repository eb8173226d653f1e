package cluster

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"
)

// flag is a bool that is also read from the words and numbers that Patroni takes
// for one.
type flag bool

// UnmarshalJSON implements [json.Unmarshaler].
func (f *flag) UnmarshalJSON(data []byte) error {
	switch strings.ToLower(strings.Trim(string(data), `"`)) {
	case "true", "on", "yes", "1":
		*f = true
	case "false", "off", "no", "0":
		*f = false
	default:
		return errors.New("want true or false")
	}
	return nil
}

// seconds is a duration that is stored as a number of seconds.
type seconds time.Duration

// maxSeconds keeps a duration in range.
const maxSeconds = float64(math.MaxInt64/int64(time.Second) - 1)

// MarshalJSON implements [json.Marshaler].
func (s seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(s).Seconds())
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *seconds) UnmarshalJSON(data []byte) error {
	var n float64
	if err := json.Unmarshal(data, &n); err != nil || n < 0 || n > maxSeconds {
		return errors.New("want a number of seconds that is not negative")
	}
	*s = seconds(math.Round(n * float64(time.Second)))
	return nil
}

// clock is a moment as an operator gives it.
type clock time.Time

// MarshalJSON implements [json.Marshaler].
func (c clock) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Time(c).Format(time.RFC3339Nano))
}

// UnmarshalJSON implements [json.Unmarshaler]. A time without a zone is refused,
// because members in two zones would disagree.
func (c *clock) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		for _, layout := range []string{
			time.RFC3339Nano, "2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z07:00",
			"2006-01-02 15:04:05Z0700", "2006-01-02T15:04Z07:00", "2006-01-02 15:04Z07:00",
		} {
			if t, err := time.Parse(layout, text); err == nil {
				*c = clock(t)
				return nil
			}
		}
	}
	return errors.New("want a time with a zone, as in 2026-01-31T15:04:05+01:00")
}

// names are member names, separated by commas where they are stored.
type names []string

// MarshalJSON implements [json.Marshaler].
func (n names) MarshalJSON() ([]byte, error) { return json.Marshal(strings.Join(n, ",")) }

// UnmarshalJSON implements [json.Unmarshaler].
func (n *names) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return errors.New("want names separated by commas")
	}
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			*n = append(*n, name)
		}
	}
	return nil
}
