package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	r := &runner{out: newPrinter(os.Stdout)}
	flag.BoolVar(&r.race, "race", false, "run the tests with the race detector")
	flag.IntVar(&r.parallel, "parallel", 6, "how many parallel tests of one package run at the same time")
	flag.DurationVar(&r.timeout, "timeout", 25*time.Minute, "how long one package may take")
	flag.IntVar(&r.lanes, "lanes", 0, "how many packages run at the same time (default as many as the machine can take)")
	flag.IntVar(&r.clusters, "clusters", 0, "how many of them have a cluster of servers (default as many as the machine can take)")
	flag.StringVar(&r.make, "make", "make", "the program that builds a server")
	flag.Parse()
	if r.patterns = flag.Args(); len(r.patterns) == 0 {
		r.patterns = []string{"./..."}
	}
	if !r.main() {
		os.Exit(1)
	}
}

// main runs the tests until they are over or a signal interrupts them. Its last
// line counts the tests in every case.
func (r *runner) main() bool {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if r.lock, err = lockFile(); err == nil {
		var passed bool
		if passed, err = r.run(ctx); err == nil {
			return passed
		}
	}
	r.out.line(fmt.Sprintf("%v\n0 passed, 1 failed, 0 skipped", err))
	return false
}
