package transport

import (
	"fmt"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

// clientVerdict judges the hello of a client. A client that has been connected
// before says to which incarnation.
func (h Hello) clientVerdict(other Hello) verdict {
	switch {
	case other.cluster != h.cluster:
		return verdictCluster
	case h.Incarnation.IsZero():
		return verdictIncarnation
	case !other.Incarnation.IsZero() && other.Incarnation != h.Incarnation:
		return verdictIncarnation
	}
	return verdictWelcome
}

// judgeClient puts the accepting side's verdict on a client into words, on either
// side.
func (h Hello) judgeClient(other Hello, v verdict) error {
	_, refused := KindClient.refused()
	switch {
	case v == verdictCluster || other.cluster != h.cluster:
		return fmt.Errorf("%w: %q there keeps another tree: the root must be that of the nodes", refused, other.ID)
	case v == verdictIncarnation && (h.Incarnation.IsZero() || other.Incarnation.IsZero()):
		return fmt.Errorf("%q: %w", other.ID, errUnfounded)
	case v == verdictIncarnation || !other.Incarnation.IsZero() && h.differs(other.Incarnation):
		return fmt.Errorf("%w: %q there belongs to another incarnation of the cluster (%v, here it is %v), which was founded or restored separately: if that is meant, start the client again", refused, other.ID, other.Incarnation, h.Incarnation)
	case v != verdictWelcome:
		return fmt.Errorf("%q refused the connection", other.ID)
	}
	return nil
}

// differs reports whether h has an incarnation and it is not that one.
func (h Hello) differs(from disk.Incarnation) bool {
	return !h.Incarnation.IsZero() && h.Incarnation != from
}
