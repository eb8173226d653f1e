// Package logging writes what Raft and other nodes cause to be logged. It shortens
// texts that another node may have written, and holds back repetitions.
package logging
