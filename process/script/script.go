package script

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Base is the address at which the init maps the image of its script, and Size
// how much address space it reserves there. Both are known to the assembly of
// package launch.
const (
	Base = 0x10000000
	Size = 0x04000000
)

// The descriptors that the init is started with, beside 0, 1 and 2.
const (
	ControlFD = 3 // SOCK_SEQPACKET socket to the shim
	ScriptFD  = 4 // the image, mapped by the init before the first step
	FirstFD   = 5 // the first of the descriptors that the script asks for
)

const (
	headerSize = 24
	cells      = 120
	dataStart  = headerSize + 8*cells
	stepSize   = 64

	opJump   = 0xffffffff
	opSet    = 0xfffffffe
	anyErrno = 0xffff
)

// AnyError lets a step fail with whatever errno; see Step.Allow.
const AnyError = unix.Errno(anyErrno)

// ReportSize is the number of bytes that a report of the init has: the failed
// step, its errno, the first step, and all cells.
const ReportSize = dataStart

// Script is a list of steps and the data which they point to. The zero value
// is not usable; see New.
type Script struct {
	steps []*Step
	data  []byte
	cells []string // the names of the cells in use
	gone  *Label   // where Receive and Wait go when the shim is gone
}

// New returns an empty script.
func New() *Script {
	return &Script{cells: []string{"_"}, gone: &Label{name: "gone", step: -1}}
}

// Call is a system call: its number on this architecture and its name.
type Call struct {
	nr   uint32
	name string
}

// Arg is an argument of a step: a number, the address of some data, the
// content of a cell or the address of one.
type Arg struct {
	value    uint64
	indirect bool
	label    *Label
	text     string
}

// Step is one system call. What is not said of it with Allow, Into and Because
// has a sensible default: no errno is fine, and the result is forgotten.
type Step struct {
	call    Call
	args    []Arg
	allow   unix.Errno
	result  Cell
	because string
	field   string
	fails   string
}

// Cell takes the result of a step, and can be an argument of later ones.
type Cell struct {
	index int
	name  string
}

// Label is a place in a script that Jump goes to.
type Label struct {
	name string
	step int // index of the step after it, -1 until it is placed
}

// Add appends a step.
func (s *Script) Add(call Call, args ...Arg) *Step {
	if len(args) > 6 {
		panic("script: a system call has no more than six arguments: " + call.name)
	}
	step := &Step{call: call, args: args}
	s.steps = append(s.steps, step)
	return step
}

// Allow names the one errno, or AnyError, that is no failure: the script goes
// on, and the result is the negative errno.
func (s *Step) Allow(errno unix.Errno) *Step { s.allow = errno; return s }

// Into keeps the result in a cell.
func (s *Step) Into(c Cell) *Step { s.result = c; return s }

// Because says why the step is there, for the printed plan.
func (s *Step) Because(reason string) *Step { s.because = reason; return s }

// For names the field of the OCI spec which asked for the step, for errors.
func (s *Step) For(field string) *Step { s.field = field; return s }

// Fails says in the user's words what it means if the step fails; the errno is
// appended.
func (s *Step) Fails(text string) *Step { s.fails = text; return s }

// Failure is the error of a step that failed, in one line.
func (s *Step) Failure(index int, errno unix.Errno) string {
	switch {
	case s.fails != "":
		return fmt.Sprintf("%s: %v", s.fails, errno)
	case s.field != "":
		return fmt.Sprintf("%s: step %d: %s: %v", s.field, index, s, errno)
	}
	return fmt.Sprintf("step %d: %s: %v", index, s, errno)
}

// Field is the field of the OCI spec that asked for the step, or "".
func (s *Step) Field() string { return s.field }

// Reason is why the step is there, or "".
func (s *Step) Reason() string { return s.because }

// String is the step as strace(1) would print it, with its reason.
func (s *Step) String() string {
	if s.because != "" {
		return s.Call() + "  # " + s.because
	}
	return s.Call()
}

// Call is the step as strace(1) would print it.
func (s *Step) Call() string {
	var b strings.Builder
	if s.result.index != 0 {
		b.WriteString(s.result.name + " = ")
	}
	args := make([]string, len(s.args))
	for i, a := range s.args {
		args[i] = a.text
	}
	switch s.call.nr {
	case opJump:
		fmt.Fprintf(&b, "if %s == %s goto %s", args[0], args[1], args[2])
	case opSet:
		b.WriteString(args[0])
	default:
		fmt.Fprintf(&b, "%s(%s)", s.call.name, strings.Join(args, ", "))
	}
	switch s.allow {
	case 0:
	case AnyError:
		b.WriteString(" or not")
	default:
		b.WriteString(" or " + unix.ErrnoName(s.allow))
	}
	return b.String()
}

// Cell makes a new cell, which holds 0 until a step stores its result there.
func (s *Script) Cell(name string) Cell {
	s.cells = append(s.cells, name)
	return Cell{index: len(s.cells) - 1, name: name}
}

func (c Cell) address() uint64 { return Base + headerSize + 8*uint64(c.index) }

// Arg is the content of the cell when the step is done.
func (c Cell) Arg() Arg { return Arg{value: c.address(), indirect: true, text: c.name} }

// Pointer is the address of the cell, for calls that return a value there.
func (c Cell) Pointer() Arg { return Arg{value: c.address(), text: "&" + c.name} }

// Value is what a report of the init has in the cell.
func (c Cell) Value(report []byte) uint64 {
	return binary.LittleEndian.Uint64(report[headerSize+8*c.index:])
}

// Jump continues at the label if a and b are equal.
func (s *Script) Jump(a, b Arg, to *Label) *Step {
	return s.Add(Call{opJump, "jump"}, a, b, Arg{label: to, text: to.name})
}

// Goto continues at the label.
func (s *Script) Goto(to *Label) *Step { return s.Jump(Int(0), Int(0), to) }

// Set stores a in the cell.
func (s *Script) Set(c Cell, a Arg) *Step { return s.Add(Call{opSet, "set"}, a).Into(c) }

// Label makes a label; Place says where it is.
func (s *Script) Label(name string) *Label { return &Label{name: name, step: -1} }

// Place puts the label before the next step that is added.
func (s *Script) Place(l *Label) { l.step = len(s.steps) }

// Content is the 8 bytes at an offset in some data, when the step is done.
func (a Arg) Content(offset int, text string) Arg {
	return Arg{value: a.value + uint64(offset), indirect: true, text: text}
}

// Receive waits for a message of the shim, the first bytes of which go to
// buffer, of the given size, and up to two descriptors with it, which are
// returned. If the shim is gone instead the process exits.
func (s *Script) Receive(buffer Arg, size int) (first, second Arg) {
	const fds = 2
	order := binary.LittleEndian
	control := s.Bytes(make([]byte, unix.CmsgSpace(4*fds)+8), "control") // 8 more, since Content reads 8
	iovec := order.AppendUint64(order.AppendUint64(nil, buffer.value), uint64(size))
	iov := s.Bytes(iovec, "iov")
	// struct msghdr of recvmsg(2)
	header := make([]byte, 56)
	order.PutUint64(header[16:], iov.value)
	order.PutUint64(header[24:], 1)
	order.PutUint64(header[32:], control.value)
	order.PutUint64(header[40:], uint64(unix.CmsgSpace(4*fds)))
	n := s.Cell("received")
	s.Add(Recvmsg, Int(ControlFD), s.Bytes(header, "msg"), Flags(unix.MSG_CMSG_CLOEXEC, "MSG_CMSG_CLOEXEC")).
		Into(n).Because("until the shim says so")
	s.Jump(n.Arg(), Int(0), s.gone)
	return control.Content(unix.CmsgLen(0), "fd1"), control.Content(unix.CmsgLen(4), "fd2")
}

// Wait waits for one byte of the shim. If the shim is gone instead the process
// exits.
func (s *Script) Wait() {
	n := s.Cell("read")
	s.Add(Read, Int(ControlFD), n.Pointer(), Int(1)).Into(n).Because("until the shim says so")
	s.Jump(n.Arg(), Int(0), s.gone)
}

// End ends the script, after the step that executes the payload: with what to
// do when the shim is gone.
func (s *Script) End() {
	s.Place(s.gone)
	s.Add(Exit, Int(1)).Because("the shim is gone")
}

// Report sends all cells to the shim, in one message. If the shim is gone the
// init gets SIGPIPE, which ends it.
func (s *Script) Report() *Step {
	return s.Add(Write, Int(ControlFD), Arg{value: Base, text: "report"}, Int(ReportSize))
}

// Int is a number.
func Int[T ~int | ~int32 | ~int64 | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{value: uint64(v), text: fmt.Sprint(v)}
}

// Flags is a number that is printed as its name.
func Flags[T ~int | ~uint32 | ~uint64](v T, name string) Arg {
	return Arg{value: uint64(v), text: name}
}

// Octal is a file mode.
func Octal(v uint32) Arg { return Arg{value: uint64(v), text: fmt.Sprintf("%#o", v)} }

// Null is a null pointer.
var Null = Arg{text: "NULL"}

// Bytes puts b into the data, aligned to 8 bytes; text is what is printed.
func (s *Script) Bytes(b []byte, text string) Arg {
	for len(s.data)%8 != 0 {
		s.data = append(s.data, 0)
	}
	a := Arg{value: Base + dataStart + uint64(len(s.data)), text: text}
	s.data = append(s.data, b...)
	return a
}

// CString puts a C string into the data. The caller has made sure that there is
// no NUL in it.
func (s *Script) CString(v string) Arg {
	a := Arg{value: Base + dataStart + uint64(len(s.data)), text: fmt.Sprintf("%q", v)}
	s.data = append(append(s.data, v...), 0)
	return a
}

// Strings puts an array of C strings into the data, with a null pointer at its
// end, as execve(2) takes them. It is printed as text if that is not empty.
func (s *Script) Strings(list []string, text string) Arg { return s.StringsAnd(list, Null, text) }

// StringsAnd is Strings with one more string at its end, which is in the data
// already, if it is not null.
func (s *Script) StringsAnd(list []string, last Arg, text string) Arg {
	array := make([]byte, 0, 8*(len(list)+2))
	for _, v := range list {
		array = binary.LittleEndian.AppendUint64(array, s.CString(v).value)
	}
	array = binary.LittleEndian.AppendUint64(array, last.value)
	array = binary.LittleEndian.AppendUint64(array, 0)
	if text == "" {
		text = fmt.Sprintf("%q", list)
	}
	return s.Bytes(array, text)
}

// Value is the number, or the address of the data, for structures that have it
// in them.
func (a Arg) Value() uint64 { return a.value }

// Text is what is printed for the argument.
func (a Arg) Text() string { return a.text }

// Step returns the step with the address that a report has as the failed one,
// and its index.
func (s *Script) Step(address uint64) (*Step, int) {
	i := (address - s.stepsAt()) / stepSize
	if address < s.stepsAt() || i >= uint64(len(s.steps)) {
		return nil, -1
	}
	return s.steps[i], int(i)
}

// Steps returns all steps, in order.
func (s *Script) Steps() []*Step { return s.steps }

func (s *Script) stepsAt() uint64 {
	return Base + dataStart + uint64(len(s.data)+7)/8*8
}

// Encode returns the image of the script.
func (s *Script) Encode() ([]byte, error) {
	if len(s.cells) > cells {
		return nil, fmt.Errorf("the script has %d results, more than %d: too many mounts", len(s.cells), cells)
	}
	size := s.stepsAt() - Base + uint64(len(s.steps))*stepSize
	if size > Size {
		return nil, fmt.Errorf("the arguments and the environment are %d MiB, more than %d", size>>20, Size>>20)
	}
	image := make([]byte, size)
	order := binary.LittleEndian
	order.PutUint64(image[16:], s.stepsAt())
	copy(image[dataStart:], s.data)
	at := image[s.stepsAt()-Base:]
	for _, step := range s.steps {
		order.PutUint32(at, step.call.nr)
		order.PutUint16(at[6:], uint16(step.allow))
		for i, a := range step.args {
			if a.label != nil {
				if a.label.step < 0 {
					panic("script: label without a place: " + a.label.name)
				}
				a.value = s.stepsAt() + uint64(a.label.step)*stepSize
			}
			if a.indirect {
				at[4] |= 1 << i
			}
			order.PutUint64(at[8+8*i:], a.value)
		}
		order.PutUint64(at[56:], step.result.address())
		at = at[stepSize:]
	}
	return image, nil
}

// Failure is what a report of the init says of a step that failed: its address
// and errno; ok is false if none did.
func Failure(report []byte) (address uint64, errno unix.Errno, ok bool) {
	address = binary.LittleEndian.Uint64(report)
	return address, unix.Errno(binary.LittleEndian.Uint64(report[8:])), address != 0
}

// Clones is how many processes walk the script, one after the other, after the first.
func (s *Script) Clones() int {
	n := 0
	for _, step := range s.steps {
		if step.Calls(Clone) || step.Calls(Clone3) {
			n++
		}
	}
	return n
}

// Calls says whether the step is this system call.
func (s *Step) Calls(c Call) bool { return s.call == c }
