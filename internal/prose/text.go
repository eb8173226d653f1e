package main

import (
	"bufio"
	"bytes"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// line is one line of text for people.
type line struct {
	file   string // relative to the root
	number int
	text   string
	// isComment: of a comment or a document, which the measures count. Otherwise it
	// is of a string.
	isComment bool
}

// set returns the name under which a line is counted: its package, or its directory
// of documents.
func (l line) set() string {
	if filepath.Ext(l.file) == ".md" {
		return "documents"
	}
	return filepath.ToSlash(filepath.Dir(l.file))
}

// collect returns the text of all Go files and documents at or below root.
func collect(root string) ([]line, error) {
	var all []line
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		ext := filepath.Ext(name)
		if ext != ".go" && ext != ".md" {
			return nil
		}
		source, err := os.ReadFile(path) //nolint:gosec // G304, G122: it is in the checkout
		if err != nil {
			return err
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if ext == ".go" {
			all = append(all, ofGo(file, source)...)
		} else {
			all = append(all, ofMarkdown(file, source)...)
		}
		return nil
	})
	return all, err
}

// ofGo returns the comments of a Go file, and its strings of three words and more.
func ofGo(file string, source []byte) (lines []line) {
	files := token.NewFileSet()
	f := files.AddFile(file, -1, len(source))
	var s scanner.Scanner
	s.Init(f, source, nil, scanner.ScanComments)
	for {
		at, tok, text := s.Scan()
		switch tok {
		case token.EOF:
			return lines
		case token.COMMENT:
			for i, part := range strings.Split(text, "\n") {
				if isDirective(part) {
					continue
				}
				part = strings.TrimSpace(strings.Trim(part, "/* \t"))
				lines = append(lines, line{file, files.Position(at).Line + i, part, true})
			}
		case token.STRING:
			if value, err := strconv.Unquote(text); err == nil && len(strings.Fields(value)) >= 3 {
				lines = append(lines, line{file, files.Position(at).Line, value, false})
			}
		}
	}
}

func isDirective(comment string) bool {
	return strings.HasPrefix(comment, "//go:") || strings.HasPrefix(comment, "//nolint")
}

// codeAndTargets matches the parts of a line of Markdown that are not language: code,
// and the target of a link.
var codeAndTargets = regexp.MustCompile("`[^`]*`|\\]\\([^)]*\\)")

// ofMarkdown returns the lines of a document without its code and the targets of its
// links.
func ofMarkdown(file string, source []byte) (lines []line) {
	in := bufio.NewScanner(bytes.NewReader(source))
	in.Buffer(nil, 1<<20)
	isCode := false
	for n := 1; in.Scan(); n++ {
		text := in.Text()
		if strings.HasPrefix(strings.TrimSpace(text), "```") {
			isCode = !isCode
			continue
		}
		if !isCode {
			lines = append(lines, line{file, n, codeAndTargets.ReplaceAllString(text, ""), true})
		}
	}
	return lines
}

// sets returns the names under which lines are counted.
func sets(lines []line) []string {
	seen := map[string]bool{}
	var all []string
	for _, l := range lines {
		if !seen[l.set()] {
			seen[l.set()] = true
			all = append(all, l.set())
		}
	}
	slices.Sort(all)
	return all
}
