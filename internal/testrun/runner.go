package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/internal/machinelock"
	"github.com/holdfast-dcs/holdfast/internal/scratch"
)

// memoryNeeded is how much room the tests' files need in memory: nine servers and as
// many embedded nodes, which allocate their logs 64 MiB at a time, with as much again to
// spare. A server that is killed keeps its files there as it keeps them in the page
// cache, so no test shows less for that. The slow profile and a plain go test use the
// disk.
const memoryNeeded = 6 << 30

// runner runs the tests of packages.
type runner struct {
	dir      string // the module's
	make     string
	race     bool
	parallel int
	timeout  time.Duration
	lanes    int // 0 means as many as the machine can take
	clusters int // likewise
	patterns []string
	lock     string // the machine's lock file
	out      *printer

	logs    string
	scratch string // for the tests' temporary files
	// programs is the folder of the test programs. It is kept, because the go command does
	// not link a program again that is there and has not changed. To link all of them
	// takes minutes.
	programs string
	begin    time.Time
	jobs     []*job
	fits     capacity // runs at the same time in any case
	most     capacity // runs at the same time while processors are free
	meter    meter
	// overlap: packages that compute run with less priority at the same time as those
	// that wait, and not before them.
	overlap bool
	// servers holds each server's build error, once the build is over.
	servers map[string]error
	// earlyBuilt: the test programs that early names are built.
	earlyBuilt bool
	built      bool // every test program is
}

// lockFile returns the lock file of this machine, which every run on it shares.
func lockFile() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "holdfast")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.Join(dir, "machine.lock"), nil
}

// step is a change after which other jobs may start.
type step func(r *runner)

// run runs the tests and reports whether all of them passed.
func (r *runner) run(ctx context.Context) (bool, error) {
	r.begin = time.Now()
	packages, err := list(ctx, r.dir, r.patterns)
	if err != nil {
		return false, err
	}
	r.measure(time.Sleep)
	r.jobs, r.servers = plan(packages), map[string]error{}
	if r.overlap {
		slices.SortStableFunc(r.jobs, func(a, b *job) int { return b.first() - a.first() })
	}
	r.out.line(r.capacityLine())
	if r.logs, err = os.MkdirTemp("", "holdfast-test-"); err != nil {
		return false, err
	}
	if r.programs, err = filepath.Abs(filepath.Join(r.dir, "bin", "tests")); err != nil {
		return false, err
	}
	if r.scratch, err = scratch.Make("holdfast-scratch-", memoryNeeded); err != nil {
		return false, err
	}
	defer os.RemoveAll(r.scratch)
	r.schedule(ctx)
	return r.summarise(ctx.Err() != nil), nil
}

// measure decides how much runs at the same time.
func (r *runner) measure(sample func(time.Duration)) {
	r.fits = capacity{lanes: cmp.Or(r.lanes, always.lanes), clusters: cmp.Or(r.clusters, always.clusters)}
	r.most = capacity{lanes: cmp.Or(r.lanes, most.lanes), clusters: cmp.Or(r.clusters, most.clusters)}
	if r.most == r.fits {
		return
	}
	r.meter.read = readProcessors
	r.overlap = r.meter.idleMachine(sample)
}

// capacityLine returns the line of the output about the capacity.
func (r *runner) capacityLine() string {
	line := fmt.Sprintf("%d jobs at the same time, %d of them with a cluster of servers", r.fits.lanes, r.fits.clusters)
	if r.most != r.fits {
		line += fmt.Sprintf("; up to %d and %d while processors are free", r.most.lanes, r.most.clusters)
	}
	return line
}

// schedule builds everything and runs each package when it is its turn, until
// all are over.
func (r *runner) schedule(ctx context.Context) {
	steps := make(chan step)
	builds := 2
	go r.buildAll(ctx, steps)     // ends with a last step
	go r.buildServers(ctx, steps) // ends with a last step
	ticker, sample := time.NewTicker(r.out.interval), time.NewTicker(freeSample)
	defer ticker.Stop()
	defer sample.Stop()
	for builds > 0 || r.count(over) < len(r.jobs) {
		select {
		case next := <-steps:
			if next == nil {
				builds--
			} else {
				next(r)
			}
			r.start(ctx, steps, r.fits, len(r.jobs))
		case <-sample.C:
			if r.most != r.fits {
				// With the overlap, niced programs are those of this run, which give way.
				r.start(ctx, steps, r.room(r.meter.free(r.overlap)), 1)
			}
		case <-ticker.C:
			r.out.progress(r.status())
		}
	}
}

func (r *runner) count(s state) (n int) {
	for _, j := range r.jobs {
		if j.state == s {
			n++
		}
	}
	return n
}

// runningClusters returns how many of the running jobs have a cluster.
func (r *runner) runningClusters() (n int) {
	for _, j := range r.jobs {
		if j.state == running && j.cluster {
			n++
		}
	}
	return n
}

// builders is how many test programs are built at the same time while no test
// waits. The linker keeps little more than one processor busy.
const builders = 2

// buildAll builds the test programs in the order of the plan, the early ones
// first. No process measures meanwhile. The late ones are built one after the
// other and with less priority than the tests, which run meanwhile; with the
// least, programs that keep the processors busy would hold them up for minutes.
func (r *runner) buildAll(ctx context.Context, steps chan<- step) {
	defer func() { steps <- nil }()
	build := func(j *job, command ...string) error { return r.build(ctx, j, command...) }
	unlock, err := r.acquire(ctx, machinelock.RLock)
	if err == nil {
		defer unlock()
	} else {
		build = func(*job, ...string) error { return err }
	}
	var early, late []*job
	for _, j := range r.jobs {
		if j.program != nil {
			continue
		}
		if r.early(j) {
			early = append(early, j)
		} else {
			late = append(late, j)
		}
	}
	buildJobs(ctx, early, builders, steps, func(j *job) error { return build(j, "go") })
	steps <- func(r *runner) { r.earlyBuilt = true }
	buildJobs(ctx, late, 1, steps, func(j *job) error { return build(j, "nice", "-n", "5", "go") })
	steps <- func(r *runner) { r.built = true }
}

// buildJobs calls build for each job, on several goroutines, which end before it
// returns.
func buildJobs(ctx context.Context, jobs []*job, workers int, steps chan<- step, build func(*job) error) {
	next := make(chan *job)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for j := range next {
				err := build(j)
				steps <- func(r *runner) { r.programBuilt(ctx, j, err) }
			}
		})
	}
	for _, j := range jobs {
		next <- j
	}
	close(next)
	wg.Wait()
}

// early reports whether the job's test program is built before any test that waits
// starts.
func (r *runner) early(j *job) bool { return j.cluster || j.load == computes && !r.overlap }

// programBuilt lets the jobs run that use the test program of j.
func (r *runner) programBuilt(ctx context.Context, j *job, err error) {
	for _, user := range r.jobs {
		if user != j && user.program != j {
			continue
		}
		user.binary, user.state = j.binary, toRun
		if err != nil {
			r.finish(user, err)
			continue
		}
		user.count(ctx)
	}
}

// computing reports whether a job that keeps the processors busy is not over.
func (r *runner) computing() bool {
	return slices.ContainsFunc(r.jobs, func(j *job) bool { return j.load == computes && j.state != over })
}

// room returns the capacity for one more job, if so many processors were free.
func (r *runner) room(free float64) capacity {
	switch {
	case free < freeForJob:
		return capacity{}
	case free < freeForCluster:
		return capacity{lanes: r.most.lanes}
	}
	return r.most
}

// buildServers builds the servers that the jobs need, one after the other.
func (r *runner) buildServers(ctx context.Context, steps chan<- step) {
	defer func() { steps <- nil }()
	for _, name := range allServers {
		if !slices.ContainsFunc(r.jobs, func(j *job) bool { return slices.Contains(j.servers, name) }) {
			continue
		}
		err := r.buildServer(ctx, name)
		steps <- func(r *runner) { r.servers[name] = err }
	}
}

// start starts jobs until limit is reached or as many as atMost have started.
func (r *runner) start(ctx context.Context, steps chan<- step, limit capacity, atMost int) {
	for range atMost {
		j := r.next(ctx, limit)
		if j == nil {
			return
		}
		j.state = running
		go func() { // ends with a step
			err := r.test(ctx, j)
			steps <- func(r *runner) { r.finish(j, err) }
		}()
	}
}

// next returns the first job of the plan that may run now, or nil. It ends jobs that
// never may.
func (r *runner) next(ctx context.Context, limit capacity) *job {
	if r.count(running) >= limit.lanes {
		return nil
	}
	for _, j := range r.jobs {
		if j.state != toRun {
			continue
		}
		ready, err := r.ready(j)
		if err = errors.Join(err, ctx.Err()); err != nil {
			r.finish(j, err)
			continue
		}
		if ready && (!j.cluster || r.runningClusters() < limit.clusters) {
			return j
		}
	}
	return nil
}

// ready reports whether a job may run now, as far as there is room. The error says why
// it never may.
func (r *runner) ready(j *job) (bool, error) {
	switch {
	case j.load == waits && (!r.earlyBuilt || !r.overlap && r.computing()),
		j.load == measures && !r.built:
		return false, nil
	}
	for _, name := range j.servers {
		err, built := r.servers[name]
		if !built {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("not run, because the server %s could not be built", name)
		}
	}
	return true, nil
}

// finish ends a job.
func (r *runner) finish(j *job, err error) {
	j.state, j.err = over, err
	r.out.line(r.ended(j))
}
