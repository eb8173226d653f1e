// Package memstore is a store in memory with the whole contract of package
// dcs, and with a fault injector.
package memstore
