package transport

// descriptorLimit returns 0: Windows has no limit of handles that a process
// could run into.
func descriptorLimit() uint64 { return 0 }
