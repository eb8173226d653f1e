package main

import (
	"context"
	"os"
	"path/filepath"
)

// renderExample renders the program that is compiled and run as a test.
func renderExample(_ context.Context, root string) (string, error) {
	program, err := os.ReadFile(filepath.Join(root, "raftstore", "example_test.go")) //nolint:gosec // G304: the repository's own file
	return "```go\n" + string(program) + "```\n", err
}
