package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

const endMarker = "<!-- end generated -->\n"

var (
	beginMarker = regexp.MustCompile(`(?m)^<!-- generated: (.+) -->\n`)
	anyEnd      = regexp.MustCompile(`(?m)^<!-- end generated -->\n`)
)

// update returns text with every section of page rendered, and the names of the
// sections that were out of date.
func update(ctx context.Context, root, page, text string, sections []section) (updated string, stale []string, err error) {
	remaining := map[string]section{}
	for _, s := range sections {
		if s.page == page {
			remaining[s.name] = s
		}
	}
	var out strings.Builder
	for {
		at := beginMarker.FindStringSubmatchIndex(text)
		before := text
		if at != nil {
			before = text[:at[0]]
		}
		if anyEnd.MatchString(before) {
			return "", nil, fmt.Errorf("%s: an end marker has no begin marker before it", page)
		}
		if at == nil {
			break
		}
		name := text[at[2]:at[3]]
		s, known := remaining[name]
		if !known {
			return "", nil, fmt.Errorf("%s: marker %q: it is there twice, or internal/docgen has no such section", page, "generated: "+name)
		}
		delete(remaining, name)
		out.WriteString(text[:at[1]])
		old, rest, ended := cutLine(text[at[1]:], endMarker)
		if !ended || beginMarker.MatchString(old) {
			return "", nil, fmt.Errorf("%s: marker %q has no end marker", page, "generated: "+name)
		}
		content, err := s.render(ctx, root)
		if err != nil {
			return "", nil, fmt.Errorf("%s: marker %q: %w", page, "generated: "+name, err)
		}
		if content != old {
			stale = append(stale, name)
		}
		out.WriteString(content + endMarker)
		text = rest
	}
	for name := range remaining {
		return "", nil, fmt.Errorf("%s: marker %q is missing", page, "generated: "+name)
	}
	return out.String() + text, stale, nil
}

// cutLine cuts s around the first line that is separator.
func cutLine(s, separator string) (before, after string, found bool) {
	if after, found = strings.CutPrefix(s, separator); found {
		return "", after, true
	}
	before, after, found = strings.Cut(s, "\n"+separator)
	if !found {
		return s, "", false
	}
	return before + "\n", after, true
}

// markdownTable returns a table with one line for each row.
func markdownTable(header []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(header)
	rule := make([]string, len(header))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, row := range rows {
		line(row)
	}
	return b.String()
}
