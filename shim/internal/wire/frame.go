package wire

import "encoding/binary"

// Header is what ttrpc puts before each message: four bytes of its length, four of
// the stream, its type and flags.
type Header [10]byte

// The types of messages, and the one flag that matters here.
const (
	Request  = 1
	Response = 2
	Data     = 3

	RemoteClosed = 1 // the last message of a stream in this direction
)

// NewHeader is that of a message of so many bytes.
func NewHeader(length, stream uint32, kind byte) Header {
	var h Header
	binary.BigEndian.PutUint32(h[:], length)
	binary.BigEndian.PutUint32(h[4:], stream)
	h[8] = kind
	return h
}

// Length is that of the message, in bytes.
func (h Header) Length() uint32 { return binary.BigEndian.Uint32(h[:]) }

// Type is that of the message.
func (h Header) Type() byte { return h[8] }

// Flags depend on the type.
func (h Header) Flags() byte { return h[9] }
