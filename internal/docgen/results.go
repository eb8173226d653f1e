package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-dcs/holdfast/conformance"
)

// result is one line of HOLDFAST_CONFORMANCE_JSON.
type result struct {
	Case    string   `json:"case"`
	Backend string   `json:"backend"`
	Result  string   `json:"result"`
	Seconds float64  `json:"seconds"`
	Profile string   `json:"profile"`
	Reason  string   `json:"reason"`
	Without []string `json:"without"`
}

const notApplicable = "n/a"

// results are those of one profile.
type results struct {
	profile  string
	backends []string // in the order in which they appear
	byCase   map[string]map[string]result
}

// readResults reads docs/results/PROFILE.jsonl. Runs may be appended: the last
// result of a case counts.
func readResults(root, profile string) (results, error) {
	name := filepath.Join("docs", "results", profile+".jsonl")
	file, err := os.Open(filepath.Join(root, name)) //nolint:gosec // G304: the repository's own file
	if err != nil {
		return results{}, err
	}
	defer file.Close()
	known := map[string]bool{}
	for _, c := range conformance.Cases() {
		known[c.Name] = true
	}
	all := results{profile: profile, byCase: map[string]map[string]result{}}
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		var r result
		switch err := json.Unmarshal(lines.Bytes(), &r); {
		case err != nil:
			return results{}, fmt.Errorf("%s:%d: %w", name, n, err)
		case r.Profile != profile:
			return results{}, fmt.Errorf("%s:%d: profile %q, want %q", name, n, r.Profile, profile)
		case !known[r.Case]:
			return results{}, fmt.Errorf("%s:%d: the suite has no case %q; remove its lines or run the suite again", name, n, r.Case)
		}
		if all.byCase[r.Backend] == nil {
			all.backends = append(all.backends, r.Backend)
			all.byCase[r.Backend] = map[string]result{}
		}
		all.byCase[r.Backend][r.Case] = r
	}
	return all, lines.Err()
}

// renderTotals renders one line for each backend and profile.
func renderTotals(_ context.Context, root string) (string, error) {
	var rows [][]string
	for _, profile := range []string{"fast", "slow"} {
		all, err := readResults(root, profile)
		if err != nil {
			return "", err
		}
		for _, backend := range all.backends {
			count, partly, seconds := map[string]int{}, 0, 0.0
			for _, r := range all.byCase[backend] {
				count[r.Result]++
				seconds += r.Seconds
				if len(r.Without) > 0 {
					partly++
				}
			}
			rows = append(rows, []string{
				backend, profile, fmt.Sprint(count["pass"]), fmt.Sprint(partly), fmt.Sprint(count["fail"]), fmt.Sprint(count[notApplicable]), wholeSeconds(seconds),
			})
		}
	}
	return markdownTable([]string{"Backend", "Profile", "Passed", "Of these in part", "Failed", "Not applicable", "Its cases' time, added up"}, rows), nil
}

func wholeSeconds(s float64) string {
	if s < 10 {
		return fmt.Sprintf("%.1f s", s)
	}
	return fmt.Sprintf("%.0f s", s)
}

// renderByCase renders the slow profile, case by case.
func renderByCase(_ context.Context, root string) (string, error) {
	all, err := readResults(root, "slow")
	if err != nil {
		return "", err
	}
	var rows [][]string
	for _, c := range conformance.Cases() {
		row := []string{c.Name}
		for _, backend := range all.backends {
			row = append(row, all.byCase[backend][c.Name].cell())
		}
		rows = append(rows, row)
	}
	return markdownTable(append([]string{"Case"}, all.backends...), rows), nil
}

func (r result) cell() string {
	switch r.Result {
	case "":
		return "not run"
	case notApplicable:
		return notApplicable
	}
	text := r.Result
	if len(r.Without) > 0 {
		text += ", without " + strings.Join(r.Without, " and ")
	}
	return fmt.Sprintf("%s, %.2fs", text, r.Seconds)
}

// renderNotApplicable renders the cases that backends left out, with the
// backends' reasons.
func renderNotApplicable(_ context.Context, root string) (string, error) {
	all, err := readResults(root, "slow")
	if err != nil {
		return "", err
	}
	type group struct{ cases, reason string }
	var order []group
	names := map[group][]string{}
	for _, backend := range all.backends {
		for _, reason := range all.reasons(backend) {
			g := group{strings.Join(byArea(all.leftOut(backend, reason)), ", "), reason}
			if names[g] == nil {
				order = append(order, g)
			}
			names[g] = append(names[g], backend)
		}
	}
	var rows [][]string
	for _, g := range order {
		rows = append(rows, []string{strings.Join(names[g], "; "), g.cases, g.reason})
	}
	return markdownTable([]string{"Backend", "Cases", "Why"}, rows), nil
}

// reasons returns why backend left cases out, each reason once.
func (r results) reasons(backend string) []string {
	var reasons []string
	for _, c := range conformance.Cases() {
		one := r.byCase[backend][c.Name]
		if one.Result == notApplicable && !slices.Contains(reasons, one.Reason) {
			reasons = append(reasons, one.Reason)
		}
	}
	return reasons
}

// leftOut returns the cases that backend left out for a reason.
func (r results) leftOut(backend, reason string) []string {
	var cases []string
	for _, c := range conformance.Cases() {
		if one := r.byCase[backend][c.Name]; one.Result == notApplicable && one.Reason == reason {
			cases = append(cases, c.Name)
		}
	}
	return cases
}

// byArea returns names as code, and "Area/*" where names has every case of an
// area with several.
func byArea(names []string) []string {
	var out []string
	for _, name := range names {
		area, _, _ := strings.Cut(name, "/")
		entry := "`" + name + "`"
		if all := casesOf(area); len(all) > 1 && !slices.ContainsFunc(all, func(c string) bool { return !slices.Contains(names, c) }) {
			entry = "`" + area + "/*`"
		}
		if !slices.Contains(out, entry) {
			out = append(out, entry)
		}
	}
	return out
}

func casesOf(area string) []string {
	var names []string
	for _, c := range conformance.Cases() {
		if strings.HasPrefix(c.Name, area+"/") {
			names = append(names, c.Name)
		}
	}
	return names
}

// renderCases renders the suite's cases in order.
func renderCases(context.Context, string) (string, error) {
	var rows [][]string
	for _, c := range conformance.Cases() {
		rows = append(rows, []string{c.Name, c.Rule, c.Motivation})
	}
	return markdownTable([]string{"Case", "Must hold", "Motivation"}, rows), nil
}
