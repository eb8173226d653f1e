// Package logging writes the log messages of Raft and of other nodes. It shortens
// texts that another node may have written, and holds back repetitions.
package logging
