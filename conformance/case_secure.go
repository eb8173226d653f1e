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
		Rule:       "A wrong password or token is ErrUnauthorized, at Open or at the first call, within the budget, and never a definite statement about a key or lease.",
		Motivation: "After a password was changed at night, healthy primaries stepped down, because \"denied\" was read as \"lost\".",
	}, sleeps: true, run: func(e *env) { e.refusedClient(WrongPassword) }},
	{Case: Case{
		Name:       "Auth/MissingRight",
		Rule:       "Writes of a client without the right to write return ErrUnauthorized, and nothing is written.",
		Motivation: "A role that may read but not write seems healthy until it must take over.",
	}, run: missingRight},
	{Case: Case{
		Name:       "Auth/TokenRenewed",
		Rule:       "A token that expires during use is renewed within the budget. No call fails and no lock is lost.",
		Motivation: "etcd's simple tokens end after five minutes. The first call after that fails, and it may be the renewal.",
	}, sleeps: true, run: tokenRenewed},
	{Case: Case{
		Name:       "TLS/UnknownCA",
		Rule:       "A certificate of an unknown authority is refused within the budget, with an error that names the reason.",
		Motivation: "A client that retries a refused certificate without a report seems to have a network fault.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(UnknownCA) }},
	{Case: Case{
		Name:       "TLS/WrongHost",
		Rule:       "A certificate for another host is refused within the budget, with an error that names the reason.",
		Motivation: "Verification switched off \"for now\" because the certificate names the machine and not the address.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(WrongHost) }},
	{Case: Case{
		Name:       "TLS/Expired",
		Rule:       "An expired certificate is refused within the budget, with an error that names the reason.",
		Motivation: "This outage has a date that is known a year ahead, and the error must name it.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(ExpiredCert) }},
	{Case: Case{
		Name:       "TLS/NoCertificate",
		Rule:       "If clients must have certificates, a client without one is refused within the budget.",
		Motivation: "With TLS 1.3 the client's handshake succeeds first and its refusal comes with the first answer.",
	}, sleeps: true, run: func(e *env) { e.refusedClient(NoCert) }},
	{Case: Case{
		Name:       "TLS/Good",
		Rule:       "A client with correct credentials has the whole contract: commits, leases, locks and waits. No client logs a secret or puts one into an error.",
		Motivation: "A password in a URL was logged, and the log line was copied into a ticket.",
	}, run: secureGood},
}

// secure opens a client with these credentials, or returns the error of the refusal.
func (e *env) secure(creds Credentials) (*client, error) {
	e.needs(e.s.Secure != nil, "Secure")
	log := slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	raw, err := e.s.Secure(e, creds, log)
	if err != nil {
		return nil, err
	}
	return e.wrap(raw), nil
}

// patient is the time that opening a client may take beyond the budget of its calls.
const patient = 5 * time.Second

// refusedClient requires that a client with bad credentials gets an error that names
// them.
func (e *env) refusedClient(creds Credentials) {
	// The server serves, so that later errors are its answers and not effects of its start.
	good, err := e.secure(Good)
	require.NoError(e, err)
	e.served("a client with correct credentials", func() error { _, err := good.Commit(e.ctx, putOne(e)); return err })
	begin := time.Now()
	c, err := e.secure(creds)
	if err != nil {
		e.atMost(time.Since(begin), e.budget()+patient, begin, "Open with "+string(creds))
		e.explains(creds, err)
		e.noSecrets(err)
		return
	}
	calls := []call{
		{"Get", func(ctx context.Context) error { _, err := c.Get(ctx, e.key("k")); return err }},
		{"Commit", func(ctx context.Context) error { _, err := c.Commit(ctx, putOne(e)); return err }},
		{"Grant", func(ctx context.Context) error { _, _, err := c.Grant(ctx, e.timing.TTL); return err }},
	}
	e.together(len(calls), func(i int) {
		what := calls[i].name + " with " + string(creds)
		var err error
		e.promptly(e.budget()+slack, what, func() { err = calls[i].do(e.ctx) })
		e.kind(err, dcs.ErrUnauthorized, what)
		e.explains(creds, err)
		e.noSecrets(err)
	})
}

func putOne(e *env) dcs.Txn {
	return dcs.Txn{Then: []dcs.Write{dcs.Put(e.key("k"), []byte("v"))}}
}

// explains requires that err names the fault for an operator.
func (e *env) explains(creds Credentials, err error) {
	text := strings.ToLower(err.Error())
	words := []string{"certificate", "tls", "x509", "authority"}
	if creds == WrongPassword || creds == MissingRight {
		words = []string{"password", "unauthorized", "permission", "denied", "auth", "token", "acl"}
	}
	if !matchesAny(text, words) {
		e.Errorf("the error for a %s does not name the fault: %v", creds, err)
	}
	e.Logf("%s: %v", creds, err)
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

// Secret must be part of every password and token that a harness gives to the clients of
// [Store.Secure]. The suite searches logs and errors for it.
const Secret = "hunter2-do-not-log"

func missingRight(e *env) {
	c, err := e.secure(MissingRight)
	if err != nil {
		e.explains(MissingRight, err)
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
