package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

type verdict string

const (
	passed        verdict = "pass"
	failed        verdict = "FAIL"
	notApplicable verdict = "n/a"
)

// outcome is the outcome of one case on one backend.
type outcome struct {
	c        spec
	verdict  verdict
	reason   string   // why the case does not apply
	without  []string // missing hooks and capabilities for which checks of the case were left out
	failures []string
	logs     []string
	took     time.Duration

	latencies []latency
}

// result returns the verdict for the table. A case that left checks out is never a plain
// pass.
func (o outcome) result() string {
	if len(o.without) == 0 {
		return string(o.verdict)
	}
	return string(o.verdict) + ", without " + strings.Join(o.without, ", ")
}

// report collects the outcomes of one run.
type report struct {
	backend string
	virtual bool

	mu       sync.Mutex
	outcomes map[string]outcome
}

func (r *report) add(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outcomes == nil {
		r.outcomes = map[string]outcome{}
	}
	r.outcomes[o.c.Name] = o
}

// finish prints the table and writes the JSON lines. It runs after all cases, including the
// parallel ones.
func (r *report) finish(t *testing.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Log("\n" + r.table())
	name := os.Getenv("HOLDFAST_CONFORMANCE_JSON")
	if name == "" {
		return
	}
	if err := r.writeJSON(name); err != nil {
		t.Errorf("conformance: HOLDFAST_CONFORMANCE_JSON: %v", err)
	}
}

func (r *report) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "case\tbackend\tresult\ttime")
	count, partly := map[verdict]int{}, 0
	for _, c := range table() {
		o, ran := r.outcomes[c.Name]
		if !ran {
			continue
		}
		count[o.verdict]++
		if o.verdict == passed && len(o.without) > 0 {
			partly++
		}
		last := fmt.Sprintf("%.2fs", o.took.Seconds())
		if o.verdict == notApplicable {
			last = o.reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, r.backend, o.result(), last)
	}
	_ = w.Flush() // writing to a strings.Builder does not fail
	r.latencies(&b)
	fmt.Fprintf(&b, "%d passed, %d failed, %d not applicable (profile %s)\n",
		count[passed], count[failed], count[notApplicable], profileName())
	if partly > 0 {
		fmt.Fprintf(&b, "%d of those that passed left checks out, because of the missing hooks and capabilities in the table\n", partly)
	}
	return b.String()
}

// latencies prints the measured latencies with bound and control, except those
// far below their bounds. The JSON lines have all.
func (r *report) latencies(b *strings.Builder) {
	w := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\ncase\tlatency\tmeasured\tbound\tcontrol")
	for _, c := range table() {
		for _, l := range r.outcomes[c.Name].latencies {
			if l.figure < l.bound/4 {
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%v\t%v\t%v\n", c.Name, l.what, round(l.figure), round(l.bound), round(l.control))
		}
	}
	_ = w.Flush() // writing to a strings.Builder does not fail
}

// jsonLine is one line of HOLDFAST_CONFORMANCE_JSON.
type jsonLine struct {
	Case    string  `json:"case"`
	Backend string  `json:"backend"`
	Result  string  `json:"result"` // pass, fail or n/a
	Seconds float64 `json:"seconds"`
	Profile string  `json:"profile"`
	Virtual bool    `json:"virtual"`
	Reason  string  `json:"reason,omitempty"`
	// Without names the missing hooks of Store, and the missing capabilities of the
	// backend, for which checks of the case were left out.
	Without []string `json:"without,omitempty"`

	Latencies []jsonLatency `json:"latencies,omitempty"`
}

// jsonLatency is a latency in seconds.
type jsonLatency struct {
	What    string  `json:"what"`
	Seconds float64 `json:"seconds"`
	Bound   float64 `json:"bound"`
	Control float64 `json:"control"`
}

// writeJSON appends, because several packages may write to one file.
func (r *report) writeJSON(name string) (err error) {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // G304: the file is named by the user that runs the tests
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	enc := json.NewEncoder(f)
	for _, c := range table() {
		o, ran := r.outcomes[c.Name]
		if !ran {
			continue
		}
		line := jsonLine{
			Case: c.Name, Backend: r.backend, Result: strings.ToLower(string(o.verdict)),
			Seconds: o.took.Seconds(), Profile: profileName(), Virtual: r.virtual, Reason: o.reason, Without: o.without,
		}
		for _, l := range o.latencies {
			line.Latencies = append(line.Latencies, jsonLatency{l.what, l.figure.Seconds(), l.bound.Seconds(), l.control.Seconds()})
		}
		if err := enc.Encode(line); err != nil {
			return err
		}
	}
	return nil
}
