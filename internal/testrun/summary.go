package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// failure is one thing that failed, and the command that repeats it.
type failure struct {
	name    string
	output  []string
	command string
}

// isFailed reports whether a job failed by more than its tests: they did not run,
// their program ended before they did, or it failed although they passed.
func (j *job) isFailed() bool {
	if j.err == nil {
		return j.record.isCrashed()
	}
	var exit *exec.ExitError
	return !errors.As(j.err, &exit) || j.record.isCrashed() || len(j.record.failed()) == 0
}

// counts returns how many of the job's tests passed, failed and were skipped. A
// job that failed although no test did counts as one failure.
func (j *job) counts() (passed, failed, skipped int) {
	passed, failed, skipped = j.record.counts()
	if failed == 0 && (j.err != nil || j.isFailed()) {
		failed = 1
	}
	return passed, failed, skipped
}

// failures returns the failures of a job.
func (r *runner) failures(j *job) (found []failure) {
	for _, t := range j.record.failed() {
		f := failure{name: j.pkg.path() + " " + t.name, output: t.tail, command: r.repeat(j, t.name)}
		if !t.ended() {
			f.name += " (running when the test program ended)"
			if len(j.record.crash) > 0 {
				f.output = nil // shown once, below
			}
		}
		found = append(found, f)
	}
	if !j.isFailed() {
		return found
	}
	output := j.record.tail
	if j.record.isCrashed() {
		output = j.record.crash
	}
	if j.err != nil {
		output = append(strings.Split(j.err.Error(), "\n"), output...)
	}
	return append(found, failure{name: j.name(), output: output, command: r.repeat(j, "")})
}

// repeat returns the command that runs a test again, or all tests of the package
// where test is empty.
func (r *runner) repeat(j *job, test string) string {
	var words []string
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "HOLDFAST_") {
			words = append(words, quote(v))
		}
	}
	slices.Sort(words)
	words = append(words, "go", "test")
	if r.race {
		words = append(words, "-race")
	}
	words = append(words, "-count=1")
	if test != "" {
		words = append(words, "-run", quote(pattern(test)))
	} else {
		words = append(words, fmt.Sprintf("-parallel=%d -timeout=%v", r.parallel, r.timeout))
	}
	return strings.Join(append(words, j.pkg.arg()), " ")
}

// pattern returns the expression for -run that matches one test.
func pattern(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// quote quotes a word for a shell, unless every character is harmless.
func quote(word string) string {
	if regexp.MustCompile(`^[\w=./:,-]+$`).MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// maxWidth bounds the lines of output that the summary repeats.
const maxWidth = 300

// summarise prints the failures and reports whether everything passed.
func (r *runner) summarise(interrupted bool) bool {
	var all []failure
	passed, failed, skipped := 0, 0, 0
	for _, j := range r.jobs {
		p, f, s := j.counts()
		passed, failed, skipped = passed+p, failed+f, skipped+s
		all = append(all, r.failures(j)...)
	}
	for _, name := range allServers {
		if err := r.servers[name]; err != nil {
			all = append(all, failure{"server " + name, strings.Split(err.Error(), "\n"), "make server-" + name})
			failed++
		}
	}
	for _, f := range all {
		r.out.line("\n=== " + f.name)
		for _, l := range f.output[:min(len(f.output), tailLines+1)] {
			r.out.line(l[:min(len(l), maxWidth)])
		}
	}
	r.out.line("")
	for _, f := range all {
		r.out.line("failed: " + f.name + "\n  " + f.command)
	}
	if interrupted {
		r.out.line("interrupted")
	}
	r.out.line(fmt.Sprintf("jobs: %d, time: %s, whole output: %s", len(r.jobs), clock(time.Since(r.begin)), r.logs))
	r.out.line(fmt.Sprintf("%d passed, %d failed, %d skipped", passed, failed, skipped))
	return failed == 0 && !interrupted
}
