// Package failover tests electors in processes of their own, which are killed and stopped
// while their store runs, and whose store is stopped while they run, also in failsafe mode.
// One clock shows that two services are never primary at one moment.
package failover
