package mutants

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/scratch"
)

// Runner builds mutants and runs the tests that must fail on them.
type Runner struct {
	Root    string        // of the module
	Workers int           // builds at once
	Timeout time.Duration // of one run of a test binary
	Out     io.Writer     // a line for each mutant

	work     string              // the directory for everything that is made
	building chan struct{}       // holds a value for each build under way
	combined map[string]combined // by package of the tests; the zero value is possible
}

// combined is a test binary with several mutants.
type combined struct {
	binary

	mutants map[string]bool // by name
}

// Result is the outcome of one mutant. A nil Err says that each of its tests
// failed on it.
type Result struct {
	Mutant Mutant
	Err    error
	Took   time.Duration
}

// memoryNeeded is how much room the test binaries under way need in memory.
const memoryNeeded = 2 << 30

// Run first runs the tests of all mutants on the code as it is, where they must pass,
// and then every mutant. The error is about the former, or that of ctx; it leaves
// mutants without a result.
func (r *Runner) Run(ctx context.Context, all []Mutant) ([]Result, error) {
	work, err := scratch.Make("mutants-", memoryNeeded)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	r.work, r.building = work, make(chan struct{}, max(r.Workers, 1))
	if err := r.prepare(ctx, all); err != nil {
		return nil, fmt.Errorf("without any mutant: %w", err)
	}
	results := make([]Result, len(all))
	var done int
	var mu sync.Mutex
	// Builds keep the processors busy, and many tests wait.
	parallel(len(all), 2*r.Workers, func(i int) {
		if ctx.Err() != nil {
			return
		}
		start := time.Now()
		res := Result{Mutant: all[i], Err: r.mutant(ctx, filepath.Join(work, all[i].Name), all[i])}
		res.Took = time.Since(start)
		results[i] = res
		mu.Lock()
		defer mu.Unlock()
		done++
		fmt.Fprintf(r.Out, "%*d of %d  %s\n", len(fmt.Sprint(len(all))), done, len(all), res)
	})
	return results, ctx.Err()
}

// prepare builds the combined mutants and runs all tests without any mutant.
func (r *Runner) prepare(ctx context.Context, all []Mutant) error {
	tests := testsOf(all)
	packages := sortedKeys(tests)
	// The package with most tests takes longest.
	slices.SortStableFunc(packages, func(a, b string) int { return len(tests[b]) - len(tests[a]) })
	builds, failures := make([]combined, len(packages)), make([]error, len(packages))
	// No more tests at once than processors: here they must pass.
	parallel(len(packages), r.Workers, func(i int) {
		if builds[i], failures[i] = r.combine(ctx, packages[i], all); failures[i] == nil {
			failures[i] = r.unmutated(ctx, builds[i].binary, packages[i], tests[packages[i]])
		}
	})
	r.combined = make(map[string]combined)
	for i, pkg := range packages {
		r.combined[pkg] = builds[i]
	}
	return errors.Join(failures...)
}

// combine builds the tests of pkg with the mutants of all that they have to kill. If
// that does not compile, each of these is built alone.
func (r *Runner) combine(ctx context.Context, pkg string, all []Mutant) (combined, error) {
	c := combined{mutants: make(map[string]bool)}
	var changes []change
	for _, m := range all {
		if !slices.ContainsFunc(m.Kills, func(k Kill) bool { return k.Package == pkg }) {
			continue
		}
		if of, ok := m.changes(r.Root); ok {
			changes, c.mutants[m.Name] = append(changes, of...), true
		}
	}
	work := filepath.Join(r.work, "combined-"+strings.ReplaceAll(strings.TrimPrefix(pkg, "./"), "/", "-"))
	if err := os.Mkdir(work, 0o700); err != nil {
		return combined{}, err
	}
	if len(changes) > 0 {
		files, err := combine(r.Root, changes)
		if err != nil {
			return combined{}, err
		}
		overlay, err := writeOverlay(r.Root, work, files)
		if err != nil {
			return combined{}, err
		}
		if c.binary, err = r.build(ctx, work, pkg, overlay); err == nil {
			return c, nil
		}
		fmt.Fprintf(r.Out, "the %d mutants of %s are built one by one: %v\n", len(c.mutants), pkg, err)
	}
	b, err := r.build(ctx, work, pkg, "")
	return combined{binary: b}, err
}

func (r Result) String() string {
	took := r.Took.Round(100 * time.Millisecond)
	if r.Err != nil {
		return fmt.Sprintf("FAIL    %s (%v): %v", r.Mutant.Name, took, r.Err)
	}
	kills := make([]string, len(r.Mutant.Kills))
	for i, k := range r.Mutant.Kills {
		kills[i] = k.String()
	}
	return fmt.Sprintf("killed  %s (%v) by %s", r.Mutant.Name, took, strings.Join(kills, "; "))
}

// parallel calls f for 0 to n-1, on that many goroutines, which end before it
// returns.
func parallel(n, goroutines int, f func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range max(goroutines, 1) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// testsOf returns the tests of all mutants, each once, by package.
func testsOf(all []Mutant) map[string][]Kill {
	tests := make(map[string][]Kill)
	for _, m := range all {
		for _, k := range m.Kills {
			if !slices.ContainsFunc(tests[k.Package], func(o Kill) bool { return o.String() == k.String() }) {
				tests[k.Package] = append(tests[k.Package], k)
			}
		}
	}
	return tests
}

// unmutated runs tests of one package on the code as it is.
func (r *Runner) unmutated(ctx context.Context, b binary, pkg string, tests []Kill) error {
	start := time.Now()
	for _, group := range together(tests) {
		out, err := r.test(ctx, b, "", group)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", pkg, err, tail(out))
		}
		for _, k := range group {
			if !out.passed(k.Test) {
				return fmt.Errorf("%s was not run, or skipped", k)
			}
		}
	}
	fmt.Fprintf(r.Out, "passed  %s without any mutant: %d tests (%v)\n", pkg, len(tests), time.Since(start).Round(100*time.Millisecond))
	return nil
}

// together groups tests that one run of a test binary can select: those with
// the same flags and the same number of name elements.
func together(tests []Kill) [][]Kill {
	groups := make(map[string][]Kill)
	for _, k := range tests {
		key := fmt.Sprint(strings.Count(k.Test, "/"), k.Flags)
		groups[key] = append(groups[key], k)
	}
	var all [][]Kill
	for _, key := range sortedKeys(groups) {
		all = append(all, groups[key])
	}
	return all
}

// mutant returns nil if each of m's tests fails on m.
func (r *Runner) mutant(ctx context.Context, work string, m Mutant) error {
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	alone := make(map[string]binary)
	for _, k := range m.Kills {
		b, name := r.combined[k.Package].binary, m.Name
		if !r.combined[k.Package].mutants[m.Name] {
			var err error
			if b, err = r.alone(ctx, work, m, k.Package, alone); err != nil {
				return err
			}
			name = ""
		}
		out, err := r.test(ctx, b, name, []Kill{k})
		switch {
		case err == nil:
			return fmt.Errorf("survives %s", k)
		case !out.killed(k.Test):
			return fmt.Errorf("%s ended for another reason than its own failure: %w\n%s", k, err, tail(out))
		}
	}
	return nil
}

// alone returns the test binary of pkg with only the mutant m. It builds each of built
// once.
func (r *Runner) alone(ctx context.Context, work string, m Mutant, pkg string, built map[string]binary) (binary, error) {
	if b, ok := built[pkg]; ok {
		return b, nil
	}
	overlay, err := m.overlay(r.Root, work)
	if err != nil {
		return binary{}, err
	}
	b, err := r.build(ctx, work, pkg, overlay)
	built[pkg] = b
	return b, err
}
