package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"
)

// printer prints lines that stay and, on a terminal, one below them that is
// replaced.
type printer struct {
	w        io.Writer
	terminal bool
	interval time.Duration // of progress lines
	shown    bool          // a progress line is below
}

// newPrinter returns a printer for f. A log gets fewer progress lines than a
// terminal, which replaces them.
func newPrinter(f *os.File) *printer {
	if term.IsTerminal(int(f.Fd())) {
		return &printer{w: f, terminal: true, interval: time.Second}
	}
	return &printer{w: f, interval: 15 * time.Second}
}

func (p *printer) line(text string) {
	p.clear()
	fmt.Fprintln(p.w, text)
}

func (p *printer) progress(text string) {
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	p.clear()
	fmt.Fprint(p.w, text)
	p.shown = true
}

func (p *printer) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[J")
	}
	p.shown = false
}

// status describes the run: how long it has taken, how many jobs are done,
// and how far those are that run.
func (r *runner) status() string {
	parts := []string{fmt.Sprintf("%s %d of %d jobs", clock(time.Since(r.begin)), r.count(over), len(r.jobs))}
	for _, j := range r.jobs {
		if j.state == running {
			parts = append(parts, j.status())
		}
	}
	return strings.Join(append(parts, r.pending()...), " | ")
}

// pending names the package whose tests are being built, and those that wait for
// a server.
func (r *runner) pending() (parts []string) {
	for _, j := range r.jobs {
		if j.state == toBuild {
			return append(parts, j.name()+" is being built")
		}
		notBuilt := func(name string) bool { _, built := r.servers[name]; return !built }
		if i := slices.IndexFunc(j.servers, notBuilt); i >= 0 && j.state == toRun {
			parts = append(parts, j.name()+" waits for the server "+j.servers[i])
		}
	}
	return parts
}

func (j *job) status() string {
	done, total, current := j.record.progress()
	text := fmt.Sprintf("%s %d/%d", j.name(), done, total)
	if current == nil {
		return text
	}
	return fmt.Sprintf("%s %s %s", text, strings.TrimPrefix(current.name, "TestConformance/"), clock(time.Since(current.since)))
}

// ended describes a job that is over.
func (r *runner) ended(j *job) string {
	passed, failed, skipped := j.counts()
	verdict := "ok  "
	if failed > 0 {
		verdict = "FAIL"
	}
	return fmt.Sprintf("%s %-20s %s  %d passed, %d failed, %d skipped in %s, %s of CPU time",
		verdict, j.name(), clock(time.Since(r.begin)), passed, failed, skipped, clock(j.took), clock(j.cpu))
}

// clock formats d as minutes and seconds.
func clock(d time.Duration) string {
	d = d.Round(time.Second)
	return fmt.Sprintf("%d:%02d", d/time.Minute, d%time.Minute/time.Second)
}
