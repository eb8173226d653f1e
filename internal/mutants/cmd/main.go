// The command runs the mutants that its arguments name, or all of them, and
// fails unless each is killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/mutants"
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, flag.Args(), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string, out io.Writer) error {
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	r := mutants.Runner{Root: root, Workers: runtime.GOMAXPROCS(0), Timeout: 2 * time.Minute, Out: out}
	start := time.Now()
	results, err := r.Run(ctx, chosen)
	if err != nil {
		return err
	}
	return summary(out, results, time.Since(start))
}

func choose(names []string) ([]mutants.Mutant, error) {
	all, err := mutants.All()
	if err != nil || len(names) == 0 {
		return all, err
	}
	var chosen []mutants.Mutant
	for _, name := range names {
		i := slices.IndexFunc(all, func(m mutants.Mutant) bool { return m.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no mutant is named %q; the names are those of internal/mutants/*.txtar", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(mod))), nil
}

// summary prints the last lines: the failures, each with the command that
// repeats it.
func summary(out io.Writer, results []mutants.Result, took time.Duration) error {
	var failed int
	for _, r := range results {
		if r.Err == nil {
			continue
		}
		if failed++; failed == 1 {
			fmt.Fprintln(out)
		}
		first, _, _ := strings.Cut(r.Err.Error(), "\n")
		fmt.Fprintf(out, "FAIL  %s: %s\n      repeat with: make mutants MUTANTS=%s\n", r.Mutant.Name, first, r.Mutant.Name)
	}
	fmt.Fprintf(out, "\n%d of %d mutants killed in %v\n", len(results)-failed, len(results), took.Round(time.Second))
	if failed > 0 {
		return errors.New("mutants: not all were killed")
	}
	return nil
}
