package elector

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs/cluster"
	"github.com/holdfast-dcs/holdfast/memstore"
)

// seeds returns the seeds of a random test: the one in HOLDFAST_SEED, else n of them.
func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	if text := os.Getenv("HOLDFAST_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{seed}
	}
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		n *= 50
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = rand.Uint64()
	}
	return out
}

// TestNeverTwoPrimaries is a random walk over faults of the store, of the service and
// of the processes, with requests of operators in between. At no moment may two
// services be primary; the fakes record that by one clock. In the end, without
// faults, one member must lead.
func TestNeverTwoPrimaries(t *testing.T) {
	for _, seed := range seeds(t, 4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			one := func() bool { return r.IntN(2) == 0 }
			inStore(t, memstore.Options{
				ExpiryFactor: float64(1 + r.IntN(2)), NoRebind: one(), NoSelfExpiry: one(), LeasesRunOn: one(), ModifiedOnly: one(),
				Latency: time.Duration(r.IntN(2)*r.IntN(100)) * time.Millisecond,
			}, func(t *testing.T, w *world) {
				if r.IntN(3) > 0 {
					w.put(t, cluster.ConfigKey, `{"failsafe_mode":true}`)
				}
				(&walk{w: w, t: t, r: r, links: newLinks()}).run(50)
			})
		})
	}
}

type walk struct {
	w      *world
	t      *testing.T
	r      *rand.Rand
	next   int
	names  []string
	faults []*memstore.Injection
	calm   bool // the services behave
	left   int  // services that were left running
	links  *links
}

// service makes the callbacks of f misbehave by chance.
func (k *walk) service(f *fake) {
	seed := rand.New(rand.NewPCG(k.r.Uint64(), 2))
	chance := func(ctx context.Context) error {
		f.mu.Lock()
		calm, n, d := k.calm, seed.IntN(12), time.Duration(seed.IntN(20000))*time.Millisecond
		f.mu.Unlock()
		switch {
		case calm || n < 6:
			return nil
		case n < 8:
			time.Sleep(d / 20)
			return nil
		case n == 8:
			return errors.New("by chance")
		case n == 9:
			panic("by chance")
		case n == 10:
			time.Sleep(d) // ignores its context
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
		return ctx.Err()
	}
	f.onPromote = chance
	f.onDemote = func(ctx context.Context, _ Reason) error { return chance(ctx) }
	f.onFence = func(Reason) error {
		f.mu.Lock()
		n := seed.IntN(10)
		calm := k.calm
		f.mu.Unlock()
		switch {
		case calm || n > 4:
			return nil
		case n > 1:
			time.Sleep(400 * time.Millisecond)
			return nil
		case n == 1:
			return errors.New("by chance")
		default:
			return k.w.hang()
		}
	}
}

// add starts a process of the member called name. svc is a service that an earlier
// process has left running, or nil.
func (k *walk) add(name string, svc *fake) {
	k.next++
	client := fmt.Sprintf("%s-%d", name, k.next)
	m := k.w.safe(k.links, client, name, func(c *Config) {
		if svc != nil {
			c.Service = svc
		}
		c.Timing.HandoverTimeout = time.Duration(1+k.r.IntN(30)) * time.Second
		c.Timing.PromoteTimeout = time.Duration(1+k.r.IntN(40)) * time.Second
		guarded(&fakeGuardian{})(c)
	})
	if svc != nil {
		m.svc = svc
	} else {
		k.service(m.svc)
	}
	m.start()
	k.names = append(k.names, client)
}

func (k *walk) any() *member { return k.w.members[k.names[k.r.IntN(len(k.names))]] }

func (k *walk) run(steps int) {
	for _, name := range []string{"a", "b", "c"} {
		k.add(name, nil)
	}
	for range steps {
		k.step()
		pass(time.Duration(k.r.IntN(20000)) * time.Millisecond)
		k.replace()
	}
	k.t.Logf("%d services were left running, %d members were asked", k.left, len(k.links.asked))
	k.links.do(func() { clear(k.links.cut) })
	for _, f := range k.faults {
		f.Lift()
		f.Release()
	}
	k.w.server.Up()
	k.lockAll(func() { k.calm = true })
	for _, m := range k.w.members { // the cluster is not paused any more
		if err := m.e.Resume(context.Background()); err == nil {
			break
		}
	}
	var acted time.Time
	k.w.wait(20*time.Minute, "a leader in the end", func() bool {
		if time.Since(acted) >= time.Second { // operators are not faster
			acted = time.Now()
			k.replace()
			k.removeKeeper()
			k.emptyFailsafe()
		}
		for _, name := range k.names {
			if k.w.members[name].e.Leading() != nil {
				return true
			}
		}
		return false
	})
}

func (k *walk) lockAll(f func()) {
	locked := map[*fake]bool{} // processes after each other may have had one service
	for _, m := range k.w.members {
		if !locked[m.svc] {
			locked[m.svc] = true
			m.svc.mu.Lock()
			defer m.svc.mu.Unlock()
		}
	}
	f()
}

// replace starts another process for each that has ended.
func (k *walk) replace() {
	for i := 0; i < len(k.names); i++ {
		if m := k.w.members[k.names[i]]; isClosed(m.ended) {
			var left *fake
			if m.svc.is() { // under a keeper
				k.left++
				if left = m.svc; k.r.IntN(4) == 0 { // its machine starts again
					left = nil
					m.svc.do(func() { m.svc.turn(false) })
				}
			}
			name := m.e.c.Name
			k.names = append(k.names[:i], k.names[i+1:]...)
			k.add(name, left)
			i--
		}
	}
}

// removeKeeper removes the record of a member whose service is not primary, as an
// operator does after a look at the service.
func (k *walk) removeKeeper() {
	v := k.w.view()
	if v.Keeper == nil {
		return
	}
	for _, m := range k.w.members {
		if m.e.c.Name == v.Keeper.Name && m.svc.is() {
			return
		}
	}
	k.w.note("removal of the keeper: %v", k.any().e.RemoveKeeper(context.Background(), v.Keeper.Name))
}

// emptyFailsafe empties the list while no service is primary, as an operator does after
// a look at all of them.
func (k *walk) emptyFailsafe() {
	v := k.w.view()
	if v.Failsafe.Empty() || v.Leader != nil {
		return
	}
	for _, m := range k.w.members {
		if m.svc.is() {
			return
		}
	}
	k.w.note("emptying of the list: %v", k.any().e.EmptyFailsafe(context.Background()))
}

// keep pauses the cluster, cuts the leader off from the store for longer than its lock
// lasts, and resumes by another member. Its process may end meanwhile.
func (k *walk) keep() {
	for _, name := range k.names {
		m := k.w.members[name]
		if m.e.Leading() == nil {
			continue
		}
		k.w.note("pause of %s: %v", name, m.e.Pause(context.Background()))
		pass(time.Duration(k.r.IntN(2000)) * time.Millisecond)
		k.inject(memstore.Match{Client: name}, memstore.Hang())
		if k.r.IntN(3) == 0 {
			m.cancel()
		}
		pass(time.Duration(k.r.IntN(60)) * time.Second)
		k.w.note("resume: %v", k.any().e.Resume(context.Background()))
		return
	}
}

// divide cuts links between members, and heals others.
func (k *walk) divide() {
	from, to := k.any().name, k.any().name
	on := k.r.IntN(2) == 0
	k.w.note("link from %s to %s is cut: %v", from, to, on)
	k.links.do(func() {
		if !on {
			clear(k.links.cut)
		} else if from != to {
			k.links.cut[[2]string{from, to}] = true
		}
	})
}

func (k *walk) inject(m memstore.Match, f ...memstore.Fault) {
	k.w.note("inject %+v", m)
	k.faults = append(k.faults, k.w.server.Inject(m, f...))
}

// step makes one thing go wrong, or right.
func (k *walk) step() {
	m := k.any()
	client := memstore.Match{Client: m.name}
	switch k.r.IntN(20) {
	case 0:
		k.inject(client, memstore.Hang())
	case 1:
		client.Op = memstore.OpRenew
		k.inject(client, memstore.Hang())
	case 2:
		client.Op = memstore.OpCommit
		k.inject(client, memstore.DropReply(), memstore.Times(3))
	case 3:
		client.Op = memstore.OpCommit
		k.inject(client, memstore.Hold(), memstore.Times(2))
	case 4:
		client.Op = memstore.OpWait
		k.inject(client, memstore.Hang())
	case 5:
		k.w.note("down")
		k.w.server.Down()
	case 6, 7:
		k.w.note("up")
		k.w.server.Up()
		for _, f := range k.faults {
			f.Lift()
			f.Release()
		}
		k.faults = nil
	case 8:
		m.cancel()
	case 9:
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			k.w.note("switchover of %s: %v", m.name, m.e.Switchover(ctx, Request{}))
		}()
	case 10:
		k.w.note("pause: %v", m.e.Pause(context.Background()))
	case 11:
		k.w.note("resume: %v", m.e.Resume(context.Background()))
	case 13:
		k.removeKeeper()
	case 19:
		k.w.note("cancellation of a switchover: %v", m.e.CancelSwitchover(context.Background()))
	case 14, 15:
		k.divide()
	case 16: // cut off from the store alone, for long
		k.inject(client, memstore.Hang())
		pass(time.Duration(k.r.IntN(120)) * time.Second)
	case 18:
		k.keep()
	case 17:
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := m.e.PatchConfig(ctx, fmt.Appendf(nil, `{"failsafe_mode":%v}`, k.r.IntN(3) > 0))
		k.w.note("failsafe mode: %v", err)
	case 12:
		_ = k.w.server.Put("default", cluster.Key(scope, cluster.FailoverKey), []byte(`{"member":"b"}`))
	}
}
