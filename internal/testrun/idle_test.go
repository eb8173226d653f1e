package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCapacity(t *testing.T) {
	for name, c := range map[string]struct {
		idle  float64 // processors
		known bool
		want  capacity
	}{
		"two idle processors":    {2, true, alone},
		"one idle processor":     {1, true, whileOthersRun},
		"two programs are busy":  {0, true, whileOthersRun},
		"little else is done":    {1.8, true, alone},
		"the time is not known":  {0, false, whileOthersRun},
		"many processors, a few": {12, true, alone},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				idle := func() (time.Duration, bool) {
					return time.Hour + time.Duration(c.idle*float64(time.Since(begin))), c.known
				}
				require.Equal(t, c.want, measureCapacity(idle, time.Sleep))
			})
		})
	}
}
