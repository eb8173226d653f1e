package backend

import "context"

// Verify reads the identity at a server and judges the server by it. It returns the
// identity. A server that had none is read again if this Store has got its identity since
// the read began, because the key may have been written after the read.
func (i *Identity) Verify(ctx context.Context, at string, read func(context.Context) (string, error)) (string, error) {
	for {
		before := i.ID()
		id, err := read(ctx)
		if err != nil {
			return "", err
		}
		if err = i.Check(ctx, at, id); err == nil || id != "" || i.ID() == before {
			return id, err
		}
	}
}
