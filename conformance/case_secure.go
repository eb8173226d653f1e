package conformance

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var secureCases = []spec{
	{Case: Case{
		Name:       "Auth/WrongPassword",
		Rule:       "A wrong password or token is ErrUnauthorized, at Open or at the first call, within the budget, never a definite no about a key or lease.",
		Motivation: "A password changed at night made healthy primaries step down: \"denied\" was read as \"lost\".",
	}, sleeps: true, run: func(e *env) { e.refusedClient(WrongPassword) }},
	{Case: Case{
		Name:       "Auth/MissingRight",
		Rule:       "A client that may not write is told ErrUnauthorized by its writes, and nothing is written.",
		Motivation: "A role that may read but not write looks healthy until it has to take over.",
	}, run: missingRight},
	{Case: Case{
		Name:       "Auth/TokenRenewed",
		Rule:       "A token that expires mid-way is renewed inside the budget; no call fails and no lock is lost.",
		Motivation: "etcd's simple tokens end after five minutes; the first call after that fails, and it may be the renewal.",
	}, sleeps: true, run: tokenRenewed},
	{Case: Case{
		Name:       "TLS/UnknownCA",
		Rule:       "A certificate of an unknown authority is refused, with an error that says so, within the budget.",
		Motivation: "A client that retries a refused certificate in silence looks like a network fault.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(UnknownCA) }},
	{Case: Case{
		Name:       "TLS/WrongHost",
		Rule:       "A certificate for another host is refused, with an error that says so, within the budget.",
		Motivation: "Verification switched off \"for now\" because the certificate names the machine and not the address.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(WrongHost) }},
	{Case: Case{
		Name:       "TLS/Expired",
		Rule:       "An expired certificate is refused, with an error that says so, within the budget.",
		Motivation: "The one outage with a date known a year ahead; the error must name it.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(ExpiredCert) }},
	{Case: Case{
		Name:       "TLS/NoCertificate",
		Rule:       "Where certificates are demanded of clients, one without is refused, within the budget.",
		Motivation: "With TLS 1.3 the client's handshake succeeds first and its refusal comes with the first answer.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(NoCert) }},
	{Case: Case{
		Name:       "TLS/Good",
		Rule:       "With everything right the whole contract is there: commits, leases, locks, waits; and nothing secret is logged or put into errors, by any client.",
		Motivation: "A password in a URL in a log line in a ticket.",
	}, run: secureGood},
}

// secure opens a client with the credentials who, or returns why that was
// refused.
func (e *env) secure(who Credentials) (*client, error) {
	e.needs(e.s.Secure != nil, "Secure")
	log := slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	raw, err := e.s.Secure(e, who, log)
	if err != nil {
		return nil, err
	}
	return e.wrap(raw), nil
}

// patient is what opening a client may take, beyond the budget of its calls.
const patient = 5 * time.Second

// refusedClient requires that a client with bad credentials is told so.
func (e *env) refusedClient(who Credentials) {
	// The server serves: what follows is its answer, not that it starts.
	good, err := e.secure(Good)
	require.NoError(e, err)
	e.served("a client with everything right", func() error { _, err := good.Commit(e.ctx, putOne(e)); return err })
	begin := time.Now()
	c, err := e.secure(who)
	if err != nil {
		e.atMost(time.Since(begin), e.budget()+patient, begin, "Open with "+string(who))
		e.tells(who, err)
		e.noSecrets(err)
		return
	}
	calls := []call{
		{"Get", func(ctx context.Context) error { _, err := c.Get(ctx, e.key("k")); return err }},
		{"Commit", func(ctx context.Context) error { _, err := c.Commit(ctx, putOne(e)); return err }},
		{"Grant", func(ctx context.Context) error { _, _, err := c.Grant(ctx, e.timing.TTL); return err }},
	}
	e.together(len(calls), func(i int) {
		what := calls[i].name + " with " + string(who)
		var err error
		e.promptly(e.budget()+slack, what, func() { err = calls[i].do(e.ctx) })
		e.kind(err, dcs.ErrUnauthorized, what)
		e.tells(who, err)
		e.noSecrets(err)
	})
}

func putOne(e *env) dcs.Txn {
	return dcs.Txn{Then: []dcs.Write{dcs.Put(e.key("k"), []byte("v"))}}
}

// tells requires that an operator can read from err what is wrong.
func (e *env) tells(who Credentials, err error) {
	text := strings.ToLower(err.Error())
	words := []string{"certificate", "tls", "x509", "authority"}
	if who == WrongPassword || who == MissingRight {
		words = []string{"password", "unauthorized", "permission", "denied", "auth", "token", "acl"}
	}
	if !matchesAny(text, words) {
		e.Errorf("the error for a %s does not say what is wrong: %v", who, err)
	}
	e.Logf("%s: %v", who, err)
}

// noSecrets requires that neither the log nor an error shows a secret. The
// harness makes every secret of its clients contain this word.
func (e *env) noSecrets(errs ...error) {
	text := e.log.String()
	for _, err := range errs {
		text += err.Error()
	}
	for _, secret := range []string{Secret, "PRIVATE KEY"} {
		if strings.Contains(text, secret) {
			e.Errorf("a secret shows in the log or an error")
		}
	}
}

// Secret is part of every password and token that a harness gives to the
// clients of [Store.Secure]; the suite looks for it in logs and errors.
const Secret = "hunter2-do-not-log"

func missingRight(e *env) {
	c, err := e.secure(MissingRight)
	if err != nil {
		e.tells(MissingRight, err)
		e.noSecrets(err)
		return
	}
	_, err = c.Commit(e.ctx, putOne(e))
	e.kind(err, dcs.ErrUnauthorized, "Commit without the right to write")
	e.noSecrets(err)
	good, err := e.secure(Good)
	require.NoError(e, err)
	good.absent(e.key("k"), "a client without the right wrote it")
}

func tokenRenewed(e *env) {
	c, err := e.secure(ShortToken)
	require.NoError(e, err)
	s := c.session()
	h := e.acquire(s, e.key("lock"), "x")
	end := time.Now().Add(2 * e.timing.TTL)
	for i := 0; time.Now().Before(end); i++ {
		c.put(e.key("k"), strings.Repeat("x", i%10))
		e.pass(50 * time.Millisecond)
	}
	e.stillHeld(c, h, "after the token had expired")
	require.NoError(e, h.Confirm(e.ctx))
	e.noSecrets()
}

func secureGood(e *env) {
	a, err := e.secure(Good)
	require.NoError(e, err)
	b, err := e.secure(Good)
	require.NoError(e, err)
	s := a.session()
	h := e.acquire(s, e.key("lock"), "a")
	a.commit(fenced(h.Guard(), e.key("k")))
	require.Equal(e, "fenced", string(b.get(e.key("k")).Value))
	_, err = b.session().TryAcquire(e.ctx, e.key("lock"), []byte("b"))
	e.kind(err, dcs.ErrConflict, "TryAcquire of a lock that is held")
	got, done := e.waking(b, e.prefix, b.snapshot(e.prefix).Revision)
	require.NoError(e, h.Release(e.ctx))
	e.within(e.budget()+slack, done, "a Wait wakes")
	require.Len(e, got.Entries, 1)
	if errors.Is(err, dcs.ErrUnavailable) {
		e.Fatal("a healthy secure store is unavailable")
	}
	e.noSecrets(err)
}
