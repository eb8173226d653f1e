package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// baselineFile has the number of occurrences that are allowed in each set, relative
// to the root. A set that it does not name has none.
const baselineFile = "internal/prose/baseline.txt"

func main() {
	check := flag.Bool("check", false, "fail if there are more findings than the baseline allows")
	list := flag.Bool("list", false, "print every finding")
	write := flag.Bool("write", false, "write the number of findings to the baseline")
	flag.Parse()
	root := "."
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	if err := run(os.Stdout, root, *check, *list, *write); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, root string, check, list, write bool) error {
	lines, err := collect(root)
	if err != nil {
		return err
	}
	found := findings(lines)
	switch {
	case list:
		for _, f := range found {
			fmt.Fprintln(out, f)
		}
		return nil
	case write:
		return os.WriteFile(filepath.Join(root, baselineFile), formatBaseline(lines, found), 0o600)
	case check:
		text, err := os.ReadFile(filepath.Join(root, baselineFile)) //nolint:gosec // G304: it is in the checkout
		if err != nil {
			return err
		}
		return compare(out, parseBaseline(text), found)
	}
	return measure(out, lines)
}

// finding is a word of the list in a line.
type finding struct {
	line
	word
}

// String returns f as a line that an editor can open.
func (f finding) String() string {
	return fmt.Sprintf("%s:%d: %q: %s", filepath.ToSlash(f.file), f.number, f.name, f.instead)
}

// findings returns the words of the list in the lines. The list itself has none.
func findings(lines []line) (found []finding) {
	for _, l := range lines {
		if l.set() == "internal/prose" {
			continue
		}
		for _, w := range words {
			for range w.pattern.FindAllString(l.text, -1) {
				found = append(found, finding{l, w})
			}
		}
	}
	return found
}

func bySet(found []finding) map[string][]finding {
	all := map[string][]finding{}
	for _, f := range found {
		all[f.set()] = append(all[f.set()], f)
	}
	return all
}

// formatBaseline returns the number of findings in each set that has any.
func formatBaseline(lines []line, found []finding) []byte {
	var b bytes.Buffer
	by := bySet(found)
	for _, set := range sets(lines) {
		if n := len(by[set]); n > 0 {
			fmt.Fprintf(&b, "%s %d\n", set, n)
		}
	}
	return b.Bytes()
}

func parseBaseline(text []byte) map[string]int {
	allowed := map[string]int{}
	for l := range strings.Lines(string(text)) {
		var set string
		var n int
		if _, err := fmt.Sscan(l, &set, &n); err == nil {
			allowed[set] = n
		}
	}
	return allowed
}

// compare returns an error if a set has more findings than allowed, or fewer: then
// the baseline must be lowered, so that it cannot rise again.
func compare(out io.Writer, allowed map[string]int, found []finding) error {
	by := bySet(found)
	for set := range allowed {
		if by[set] == nil {
			by[set] = []finding{}
		}
	}
	failed := false
	for set, all := range by {
		switch n := len(all); {
		case n > allowed[set]:
			failed = true
			for _, f := range all {
				fmt.Fprintln(out, f)
			}
			fmt.Fprintf(out, "%s: %d findings, allowed are %d\n", set, n, allowed[set])
		case n < allowed[set]:
			failed = true
			fmt.Fprintf(out, "%s: %d findings, allowed are %d: run go run ./internal/prose -write\n", set, n, allowed[set])
		}
	}
	if failed {
		return fmt.Errorf("the findings differ from %s", baselineFile)
	}
	return nil
}

// measure prints how often each measure occurs in 1,000 words of comments.
func measure(out io.Writer, lines []line) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "words\t")
	for _, m := range measures {
		fmt.Fprintf(w, "%s\t", m.name)
	}
	fmt.Fprintln(w)
	for _, set := range append(sets(lines), "all") {
		var text strings.Builder
		for _, l := range lines {
			if l.isComment && (set == "all" || l.set() == set) {
				text.WriteString(l.text + "\n")
			}
		}
		n := len(strings.Fields(text.String()))
		if n == 0 {
			continue
		}
		fmt.Fprintf(w, "%d\t", n)
		for _, m := range measures {
			fmt.Fprintf(w, "%.1f\t", float64(len(m.pattern.FindAllString(text.String(), -1)))*1000/float64(n))
		}
		fmt.Fprintf(w, " %s\n", set)
	}
	return w.Flush()
}
