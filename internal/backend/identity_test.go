package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
)

// stores are servers by the identity of their store. Servers that are not in it
// are silent.
type stores struct {
	mu    sync.Mutex
	of    map[string]string
	asked int
	delay time.Duration // of all servers but a
	// addresses has the endpoints of the seeds that are names with several.
	addresses map[string][]string
	ejected   map[string]string // the reasons
}

// SeedEndpoints implements [SeedPool].
func (s *stores) SeedEndpoints(_ context.Context, seed string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if several := s.addresses[seed]; several != nil {
		return several
	}
	return []string{seed}
}

// Eject implements [SeedPool].
func (s *stores) Eject(at, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ejected[at] = reason
}

func (s *stores) forget(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, addr)
}

func (s *stores) set(addr, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[addr] = id
}

func (s *stores) ask(ctx context.Context, addr string) (string, error) {
	s.mu.Lock()
	id, ok := s.of[addr]
	s.asked++
	delay := s.delay
	s.mu.Unlock()
	if addr == "a" {
		delay = 0
	}
	if !ok {
		delay = time.Hour
	}
	select {
	case <-time.After(delay):
		return id, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

const identityBudget = 700 * time.Millisecond

// identify runs f with an Identity whose seeds are a, b and c.
func identify(t *testing.T, of map[string]string, f func(t *testing.T, i *Identity, s *stores, log *strings.Builder)) {
	bubble.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(t.Context())
		s := &stores{of: of, addresses: map[string][]string{}, ejected: map[string]string{}}
		var log strings.Builder
		i := &Identity{
			Seeds: []string{"a", "b", "c"}, Pool: s, Budget: identityBudget, Life: life, Ask: s.ask,
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}
		f(t, i, s, &log)
		end()
		i.Close()
	})
}

// A server's answer that the store has no identity comes after the key was written, and
// after most servers have confirmed that.
func TestLateAnswerOfAnEarlierPoll(t *testing.T) {
	identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, log *strings.Builder) {
		late := make(chan struct{})
		var second atomic.Bool
		i.Ask = func(ctx context.Context, addr string) (string, error) {
			id, err := s.ask(ctx, addr)
			if addr == "b" && !second.Swap(true) {
				<-late
			}
			return id, err
		}
		require.NoError(t, i.Ready(t.Context()))
		require.Empty(t, i.ID())
		synctest.Wait()
		i.requestPoll()
		require.NoError(t, i.Ready(t.Context()))
		s.set("a", "x")
		s.set("b", "x")
		require.NoError(t, i.Check(t.Context(), "a", "x"))
		require.Equal(t, "x", i.ID())
		close(late)
		synctest.Wait()
		require.Equal(t, "x", i.ID())
		require.NotContains(t, log.String(), "missing")
	})
}

// A server was asked before the key was written, and its answer is checked afterwards.
func TestOlderReadingHidesNoIdentity(t *testing.T) {
	identify(t, map[string]string{"a": "x", "b": "x", "c": ""}, func(t *testing.T, i *Identity, _ *stores, log *strings.Builder) {
		require.NoError(t, i.Ready(t.Context()))
		require.Equal(t, "x", i.ID())
		synctest.Wait()
		require.Error(t, i.Check(t.Context(), "b", ""))
		require.Equal(t, "x", i.ID())
		require.NotContains(t, log.String(), "missing")
		require.NoError(t, i.Check(t.Context(), "b", "x"))
	})
}

// Whichever server answers first, the store of most seeds is chosen, and the
// error names the server of another one.
func TestMostSeedsDecide(t *testing.T) {
	for _, foreign := range []string{"a", "b", "c"} {
		of := map[string]string{"a": "x", "b": "x", "c": "x", foreign: "y"}
		identify(t, of, func(t *testing.T, i *Identity, _ *stores, _ *strings.Builder) {
			err := i.Check(t.Context(), foreign, "y")
			require.ErrorContains(t, err, "belongs to store y, this Store to store x")
			require.True(t, Judge(err).Blame)
			require.Equal(t, "x", i.ID())
			for addr, id := range of {
				require.Equal(t, id == "x", i.Check(t.Context(), addr, id) == nil, addr)
			}
			require.Error(t, i.Check(t.Context(), "listed", "y"), "a server that is no seed")
			require.NoError(t, i.Check(t.Context(), "listed", "x"))
		})
	}
}

// The seeds of the store are slow when the Store is opened, and the server of another one is
// not. Later a slow seed delays a call less.
func TestSlowSeedsDecideFirst(t *testing.T) {
	identify(t, map[string]string{"a": "y", "b": "x", "c": "x"}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		s.delay = identityBudget/2 - time.Millisecond
		require.ErrorContains(t, i.Check(t.Context(), "a", "y"), "belongs to store y, this Store to store x")
		require.Equal(t, "x", i.ID())
		require.LessOrEqual(t, i.pollTime(), identityBudget/4)
	})
}

// A store that is silent when it is opened takes half of the first call's budget, and
// nothing of the later ones.
func TestNoSeedAnswers(t *testing.T) {
	identify(t, map[string]string{}, func(t *testing.T, i *Identity, _ *stores, _ *strings.Builder) {
		begin := time.Now()
		require.NoError(t, i.Ready(t.Context()))
		require.Equal(t, identityBudget/2, time.Since(begin))
		require.NoError(t, i.Ready(t.Context()))
		require.Equal(t, identityBudget/2, time.Since(begin))
		require.Empty(t, i.ID())
	})
}

// No seed answers when the Store is opened. The first one that does so later does not decide
// alone, whether it answers the poll late or a request, and calls that wait for the decision
// share one poll.
func TestFirstAnswerAfterSilenceDecidesNothing(t *testing.T) {
	for name, late := range map[string]func(i *Identity){
		"to a request": func(*Identity) {},
		"to the poll":  func(i *Identity) { i.vote("a", "y") },
	} {
		t.Run(name, func(t *testing.T) {
			identify(t, map[string]string{}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
				require.NoError(t, i.Ready(t.Context()))
				for addr, id := range map[string]string{"a": "y", "b": "x", "c": "x"} {
					s.set(addr, id)
				}
				late(i)
				s.mu.Lock()
				s.delay = identityBudget/2 - time.Millisecond
				before := s.asked
				s.mu.Unlock()
				var calls sync.WaitGroup
				for n := range 10 {
					calls.Go(func() {
						time.Sleep(time.Duration(n) * identityBudget / 25)
						i.Await(t.Context())
						require.ErrorContains(t, i.Check(t.Context(), "a", "y"), "belongs to store y, this Store to store x")
					})
				}
				calls.Wait()
				require.Equal(t, "x", i.ID())
				require.Equal(t, 3, s.asked-before)
			})
		})
	}
}

// Where no store has most of the seeds, none is used.
func TestSplitSeedsAreRefused(t *testing.T) {
	identify(t, map[string]string{"a": "x", "b": "y"}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		for range 3 {
			err := i.Ready(t.Context())
			require.ErrorContains(t, err, "a to store x, b to store y")
			require.Error(t, i.Check(t.Context(), "a", "x"))
		}
		s.set("c", "x")
		require.Equal(t, 3, s.asked, "asked once a second")
		time.Sleep(i.pollInterval())
		require.NoError(t, i.Ready(t.Context()), "the third seed decides")
		require.Equal(t, "x", i.ID())
	})
}

// Silent seeds delay the first call by a bounded time, and their later votes
// end the use of a store that most of them do not belong to.
func TestSilentSeedsVoteLater(t *testing.T) {
	identify(t, map[string]string{"a": "x"}, func(t *testing.T, i *Identity, _ *stores, _ *strings.Builder) {
		begin := time.Now()
		require.NoError(t, i.Ready(t.Context()))
		require.Equal(t, identityBudget/2, time.Since(begin))
		require.NoError(t, i.Check(t.Context(), "a", "x"))
		require.Error(t, i.Check(t.Context(), "b", "y"))
		require.ErrorContains(t, i.Check(t.Context(), "a", "x"), "different stores")
		require.Error(t, i.Check(t.Context(), "c", "y"))
		require.ErrorContains(t, i.Check(t.Context(), "a", "x"), "most endpoints belong to another store")
	})
}

// A store without an identity gets one from a writer: that is no other store.
func TestIdentityIsMadeLater(t *testing.T) {
	identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		require.NoError(t, i.Check(t.Context(), "a", ""))
		require.Empty(t, i.ID())
		s.set("c", "y")
		require.Error(t, i.Check(t.Context(), "c", "y"), "only this server has it")
		require.NoError(t, i.Check(t.Context(), "a", ""))
		s.set("a", "x")
		s.set("b", "x")
		require.NoError(t, i.Check(t.Context(), "b", "x"))
		require.Equal(t, "x", i.ID())
		require.Error(t, i.Check(t.Context(), "a", ""), "a connection to a store without an identity")
	})
}

// The server that has the identity first is not refused for that, however slow the
// others are.
func TestFirstToHaveAnIdentityIsNotForeign(t *testing.T) {
	identify(t, map[string]string{"a": "", "b": "", "c": ""}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		require.NoError(t, i.Check(t.Context(), "a", ""))
		s.set("a", "x")
		s.set("b", "x")
		s.forget("c")
		s.mu.Lock()
		s.delay = i.pollTime() / 2
		s.mu.Unlock()
		require.NoError(t, i.Check(t.Context(), "a", "x"))
		require.Equal(t, "x", i.ID())
	})
}

// A key that was deleted is missing everywhere, and has its identity again.
func TestIdentityIsRemembered(t *testing.T) {
	identify(t, map[string]string{"a": "x", "b": "x", "c": "x"}, func(t *testing.T, i *Identity, s *stores, log *strings.Builder) {
		require.NoError(t, i.Check(t.Context(), "a", "x"))
		require.Error(t, i.Check(t.Context(), "a", ""))
		for _, addr := range []string{"a", "b", "c"} {
			s.set(addr, "")
		}
		time.Sleep(i.pollInterval() + time.Millisecond)
		_ = i.Check(t.Context(), "a", "")
		require.NoError(t, i.Check(t.Context(), "b", ""))
		require.Empty(t, i.ID())
		require.Equal(t, "x", i.Former())
		require.Contains(t, log.String(), "identity is missing")
	})
}

// While all servers belong to another store few requests are sent, and the log
// says so once. When they are the store's again, all is well.
func TestForeignServersAreAskedSeldom(t *testing.T) {
	identify(t, map[string]string{"a": "x", "b": "x", "c": "x"}, func(t *testing.T, i *Identity, _ *stores, log *strings.Builder) {
		require.NoError(t, i.Check(t.Context(), "a", "x"))
		time.Sleep(identityBudget)
		sent := 0
		for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(time.Millisecond) {
			err := i.Admit(t.Context(), "listed")
			if err == nil {
				sent++
				err = i.Check(t.Context(), "listed", "y")
			}
			require.ErrorContains(t, err, "belongs to store y")
		}
		require.LessOrEqual(t, sent, doubtfulBurst+10*doubtfulRate)
		require.Equal(t, 1, strings.Count(log.String(), "no server answers for the store"))
		require.NoError(t, i.Check(t.Context(), "listed", "x"))
		for range 100 {
			require.NoError(t, i.Admit(t.Context(), "listed"))
		}
	})
}

// A foreign server among those of the store limits no requests.
func TestOneForeignServerLimitsNoRequests(t *testing.T) {
	identify(t, map[string]string{"a": "x", "b": "x", "c": "y"}, func(t *testing.T, i *Identity, _ *stores, log *strings.Builder) {
		for range 100 {
			require.NoError(t, i.Check(t.Context(), "a", "x"))
			require.Error(t, i.Check(t.Context(), "c", "y"))
			for range 10 {
				require.NoError(t, i.Admit(t.Context(), "a"))
			}
			time.Sleep(identityBudget / 20)
			require.Error(t, i.Check(t.Context(), "c", "y"))
			require.NoError(t, i.Admit(t.Context(), "a"))
		}
		require.Empty(t, log.String())
	})
}

// A store whose revisions have fallen is found within the budget, with few
// requests, and is not used again.
func TestFallenRevisionsAreFinal(t *testing.T) {
	identify(t, map[string]string{"a": "x", "b": "x", "c": "x"}, func(t *testing.T, i *Identity, _ *stores, log *strings.Builder) {
		require.NoError(t, i.Check(t.Context(), "a", "x"))
		require.NoError(t, i.Follows("a", 900, 900))
		begin, sent := time.Now(), 0
		for ; ; time.Sleep(time.Millisecond) {
			err := i.Admit(t.Context(), "a")
			if err == nil {
				sent++
				require.NoError(t, i.Check(t.Context(), "a", "x"), "its identity is right")
				err = i.Follows("a", 900, 12)
			}
			require.Error(t, err)
			if Judge(err).Final {
				require.ErrorContains(t, err, "the store is at revision 12 and was at 900 before")
				require.ErrorContains(t, err, "reopen the Store")
				break
			}
		}
		require.Less(t, time.Since(begin), identityBudget)
		require.LessOrEqual(t, sent, 6)
		require.Equal(t, 1, strings.Count(log.String(), "the store has lost data"))
		var f *Failure
		require.ErrorAs(t, i.Admit(t.Context(), "b"), &f)
		require.Equal(t, dcs.ErrUnavailable, f.Kind)
		require.NoError(t, i.Follows("b", 900, 901), "calls under way may end")
		require.Error(t, i.Admit(t.Context(), "b"))
	})
}

// A server with old data is no proof while another one answers.
func TestOneOldServerIsNoProof(t *testing.T) {
	identify(t, map[string]string{"a": "x", "b": "x", "c": "x"}, func(t *testing.T, i *Identity, _ *stores, log *strings.Builder) {
		for range 1000 {
			err := i.Follows("a", 900, 12)
			require.False(t, Judge(err).Final)
			require.True(t, Judge(err).Blame)
			time.Sleep(identityBudget / 3)
			require.NoError(t, i.Follows("b", 900, 900))
		}
		require.NoError(t, errors.Join(i.Admit(t.Context(), "a"), i.Admit(t.Context(), "b")))
		require.Empty(t, log.String())
	})
}

// A seed has one vote, that of most addresses of its name. The address that belongs to
// another store is ejected, and no other one.
func TestSeedVotesAsMostOfItsAddresses(t *testing.T) {
	// Each of them may be the first that counts, in an order that differs each time.
	for n := range 30 {
		foreign := fmt.Sprintf("a/%d", 1+n%3)
		of := map[string]string{"a/1": "x", "a/2": "x", "a/3": "x", foreign: "y"}
		identify(t, of, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
			i.Seeds, s.addresses["a"] = []string{"a"}, []string{"a/1", "a/2", "a/3"}
			require.NoError(t, i.Ready(t.Context()))
			require.Equal(t, "x", i.ID())
			for at, id := range of {
				require.Equal(t, id == "x", i.Check(t.Context(), at, id) == nil, at)
			}
			synctest.Wait()
			require.Len(t, s.ejected, 1)
			require.Contains(t, s.ejected[foreign], "belongs to store y")
		})
	}
}

// Many addresses of one name outvote no other seed.
func TestAddressesAreNoSeeds(t *testing.T) {
	of := map[string]string{"a/1": "y", "a/2": "y", "a/3": "y", "a/4": "y", "a/5": "y", "b": "x"}
	identify(t, of, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		s.addresses["a"] = []string{"a/1", "a/2", "a/3", "a/4", "a/5"}
		require.ErrorContains(t, i.Ready(t.Context()), "none of these has most of the endpoints", "c is silent")
		s.set("c", "x")
		time.Sleep(i.pollInterval())
		require.NoError(t, i.Ready(t.Context()))
		require.Equal(t, "x", i.ID())
		synctest.Wait()
		require.Len(t, s.ejected, 5)
	})
}

// A name whose addresses belong to two stores alike votes for none of them.
func TestDividedSeedHasNoVote(t *testing.T) {
	identify(t, map[string]string{"a/1": "x", "a/2": "y", "b": "x", "c": "y"}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		s.addresses["a"] = []string{"a/1", "a/2"}
		require.ErrorContains(t, i.Ready(t.Context()), "a/1 to store x, a/2 to store y, b to store x, c to store y")
		s.set("c", "x")
		time.Sleep(i.pollInterval())
		require.NoError(t, i.Ready(t.Context()))
		require.Equal(t, "x", i.ID())
		require.ErrorContains(t, i.Check(t.Context(), "a/2", "y"), "belongs to store y")
	})
}

// The vote of an address that its name has lost is forgotten.
func TestLostAddressHasNoVote(t *testing.T) {
	identify(t, map[string]string{"a/1": "x", "a/2": "y"}, func(t *testing.T, i *Identity, s *stores, _ *strings.Builder) {
		i.Seeds, s.addresses["a"] = []string{"a"}, []string{"a/1", "a/2"}
		require.Error(t, i.Ready(t.Context()))
		s.mu.Lock()
		s.addresses["a"] = []string{"a/1"}
		s.mu.Unlock()
		time.Sleep(i.pollInterval())
		require.NoError(t, i.Ready(t.Context()))
		require.Equal(t, "x", i.ID())
	})
}
