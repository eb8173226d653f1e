package keepalive

func systemLimits() Limits { return openbsdLimits }

// systemOptions is empty: SO_KEEPALIVE is all that OpenBSD offers for one socket.
func systemOptions() optionSet { return optionSet{} }
