package dcs

import "context"

// storeLease wraps a backend's Lease and adds the Store's checks and budget to every
// call.
type storeLease struct {
	s *Store
	l Lease
}

// ID names the lease.
func (l *storeLease) ID() LeaseID { return l.l.ID() }

// Renew confirms the lease within the Store's budget.
func (l *storeLease) Renew(ctx context.Context, keys ...string) (Renewal, error) {
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return Renewal{}, l.s.invalid(opRenew, key, err)
		}
	}
	ctx, c, err := l.s.begin(ctx, opRenew, firstOf(keys))
	if err != nil {
		return Renewal{}, err
	}
	r, err := l.l.Renew(ctx, keys...)
	if err = c.finish(ctx, err); err != nil {
		return Renewal{}, err
	}
	for _, e := range r.Entries {
		l.s.noteRevision(e.Modified)
	}
	return r, nil
}

// Revoke ends the lease within the Store's budget.
func (l *storeLease) Revoke(ctx context.Context) error {
	ctx, c, err := l.s.begin(ctx, opRevoke, "")
	if err != nil {
		return err
	}
	return c.finish(ctx, l.l.Revoke(ctx))
}

func firstOf(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return keys[0]
}
