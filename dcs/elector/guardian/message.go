package guardian

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// op is the kind of a message.
type op byte

const (
	// To the child.
	opGroup  op = iota + 1 // value is a process group, id the identity of its leader
	opArm                  // value is the instant, on the child's clock
	opExtend               // the same; no effect if the child is not armed
	opDisarm
	opCommand // the first message; value is the length of the command that follows
	// From the child.
	opReady // value is its clock, id is 1 if that is CLOCK_BOOTTIME
	opDone  // the answer to the message with this number; value is an error number
	opFired // value is an error number, number that of the message before; the last answer
)

// message has a fixed length, so that neither side needs memory that grows.
type message struct {
	op        op
	number    uint64
	value, id int64
}

const messageSize = 1 + 8 + 8 + 8

func (m message) encode() []byte {
	b := make([]byte, 0, messageSize)
	b = append(b, byte(m.op))
	b = binary.BigEndian.AppendUint64(b, m.number)
	b = binary.BigEndian.AppendUint64(b, uint64(m.value))
	return binary.BigEndian.AppendUint64(b, uint64(m.id))
}

// decode returns the message at the start of b, which has messageSize bytes.
func decode(b []byte) message {
	return message{
		op: op(b[0]), number: binary.BigEndian.Uint64(b[1:]),
		value: int64(binary.BigEndian.Uint64(b[9:])),
		id:    int64(binary.BigEndian.Uint64(b[17:])),
	}
}

// maxCommand is the longest command in bytes, so that a pipe takes it as a whole.
const maxCommand = 32 << 10

// checkCommand returns an error for a command that the system would not run.
func checkCommand(command []string) error {
	if n := len(encodeCommand(command)); n > maxCommand {
		return fmt.Errorf("the command has %d bytes with its arguments, at most %d are allowed", n, maxCommand)
	}
	for _, arg := range command {
		if strings.Contains(arg, "\x00") {
			return errors.New("an argument of the command contains a zero byte")
		}
	}
	return nil
}

// encodeCommand returns a command as it is sent: no argument contains a zero byte.
func encodeCommand(command []string) []byte { return []byte(strings.Join(command, "\x00")) }

func decodeCommand(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\x00")
}

// clock is the clock of a child: CLOCK_BOOTTIME where there is one, and otherwise the
// time since the child began.
type clock struct{ began dcs.Instant }

// now returns the reading of the clock, and whether it is CLOCK_BOOTTIME.
func (c clock) now() (ns int64, boottime bool) {
	now := dcs.Now()
	if ns, ok := now.Boottime(); ok {
		return ns, true
	}
	return int64(now.Sub(c.began)), false
}

// remoteClock converts instants to readings of a child's clock.
type remoteClock struct {
	boottime bool
	reading  int64
	received dcs.Instant // at or after the reading
}

// at returns the reading at i. It is never later than i. Without CLOCK_BOOTTIME it is
// earlier by the time that the reading took to arrive.
func (c remoteClock) at(i dcs.Instant) int64 {
	if ns, ok := i.Boottime(); ok && c.boottime {
		return ns
	}
	if c.boottime {
		return 0 // an instant before the clock's zero has passed
	}
	const century = 100 * 365 * 24 * time.Hour // so that the sum does not overflow
	return c.reading + int64(max(-century, min(i.Sub(c.received), century)))
}
