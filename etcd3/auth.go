package etcd3

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

// An authToken proves the user of a call to a member. Its value is empty if
// authentication is switched off.
type authToken struct {
	value string
	login uint64 // counts the logins of a connection; 0: none yet
}

// maxLogins bounds the attempts of one call, because a token can become invalid again
// while the call is made, by its age or because users or roles changed.
const maxLogins = 3

// outgoing returns ctx with the metadata that every call carries: the token, and
// hasleader, which makes a member that is cut off return an error at once instead of
// after 7 s.
func outgoing(ctx context.Context, token authToken) context.Context {
	if token.value == "" {
		return metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
	}
	return metadata.AppendToOutgoingContext(ctx, "hasleader", "true", "token", token.value)
}

// token returns the token of the latest login. The first call logs in.
func (c *conn) token(ctx context.Context) (authToken, error) {
	return c.login(ctx, authToken{})
}

// login returns a newer token than old, which the member refused. Calls that need
// one at the same time share one login, because each costs the member the hash of
// a password.
func (c *conn) login(ctx context.Context, old authToken) (authToken, error) {
	if c.b.c.Username == "" {
		return authToken{value: c.b.c.Token}, nil
	}
	newer := func() (authToken, bool) {
		latest := c.latest.Load()
		if latest == nil || latest.login == old.login {
			return authToken{}, false
		}
		return *latest, true
	}
	return c.logins.Do(ctx, c.b.life, c.b.c.Timing.RetryTimeout, newer, c.authenticate)
}

// authenticate logs in with each candidate password and stores the token.
func (c *conn) authenticate(ctx context.Context) (authToken, error) {
	next := authToken{login: 1}
	if latest := c.latest.Load(); latest != nil {
		next.login = latest.login + 1
	}
	for _, password := range c.b.passwords.candidates() {
		resp, err := c.auth.Authenticate(outgoing(ctx, authToken{}), &pb.AuthenticateRequest{Name: c.b.c.Username, Password: password})
		switch {
		case err == nil:
			c.b.passwords.accept(password)
			next.value = resp.Token
		case wrongPassword(err):
			continue
		case !authOff(err):
			return authToken{}, err
		}
		c.latest.Store(&next)
		return next, nil
	}
	if c.b.passwords.refuse(c.b.c.Timing.RetryTimeout) {
		return authToken{}, &backend.Failure{Endpoint: c.addr, Err: errPasswordChanging, Refused: true}
	}
	return authToken{}, rpctypes.ErrGRPCAuthFailed
}

// passwords chooses the password of a login. A password never changes in etcd and in
// the password file at the same moment.
type passwords struct {
	secret *credentials.Secret

	mu       sync.Mutex
	accepted *string     // by the last login that succeeded; nil: none yet
	refused  dcs.Instant // when the first login since that one was refused; zero: none was
}

// candidates returns the passwords that a login may try: the configured one, and the
// last one that etcd accepted if it differs.
func (p *passwords) candidates() []string {
	now := p.secret.Current()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accepted == nil || *p.accepted == now {
		return []string{now}
	}
	return []string{now, *p.accepted}
}

// accept records that etcd accepted a password.
func (p *passwords) accept(password string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted, p.refused = &password, dcs.Instant{}
}

// refuse records that etcd refused all candidates. It reports whether the file may be
// about to change, because etcd accepted a password before and has refused all
// candidates for less than patience.
func (p *passwords) refuse(patience time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accepted == nil || !p.secret.MayChange() {
		return false
	}
	if p.refused.IsZero() {
		p.refused = dcs.Now()
	}
	return p.refused.Elapsed() < patience
}
