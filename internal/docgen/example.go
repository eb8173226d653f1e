package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// renderExample renders the steps of the example of raftstore, which is compiled and
// run as a test: the second of its three paragraphs. The first one makes a directory,
// and the last one is the output.
func renderExample(_ context.Context, root string) (string, error) {
	program, err := os.ReadFile(filepath.Join(root, "raftstore", "example_test.go")) //nolint:gosec // G304: the repository's own file
	if err != nil {
		return "", err
	}
	_, function, found := strings.Cut(string(program), "\nfunc Example() {\n")
	function, _, ends := strings.Cut(function, "\n}\n")
	parts := strings.Split(function, "\n\n")
	if !found || !ends || len(parts) != 3 {
		return "", errors.New("raftstore/example_test.go has no function Example of three paragraphs")
	}
	steps := strings.ReplaceAll("\n"+parts[1], "\n\t", "\n")
	return "```go" + steps + "\n```\n", nil
}

// renderTemplate renders the test of a backend that package conformance documents and
// runs itself.
func renderTemplate(_ context.Context, root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "conformance", "doc.go")) //nolint:gosec // G304: the repository's own file
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		code, isCode := strings.CutPrefix(line, "//\t")
		if isCode && (b.Len() > 0 || strings.HasPrefix(code, "func TestConformance(")) {
			b.WriteString(code)
		}
		if code == "}\n" {
			return "```go\n" + b.String() + "```\n", nil
		}
	}
	return "", errors.New("conformance/doc.go has no func TestConformance")
}
