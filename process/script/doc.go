// Package script answers: how is one system call of the child written as data,
// and how is it printed?
//
// A Script is a list of steps, each a system call with its arguments, for the
// tiny init of package launch to walk. It is data only: this package makes no
// system call, and a script can be printed, compared and tested without root.
//
// # The image
//
// Encode turns a script into the bytes that the init maps at Base:
//
//	Base+0    the step that failed: its address, 0 if none
//	Base+8    the errno of the failed step
//	Base+16   address of the first step
//	Base+24   the cells: 8 bytes each, for the results of steps
//	...       the data: strings, arrays and structures that arguments point to
//	...       the steps, 64 bytes each
//
// Every pointer in it is an absolute address, so the init relocates nothing. A
// step is
//
//	0   uint32   number of the system call, or one of opJump, opSet
//	4   uint8    bit i: argument i is the content of the 8 bytes it points to
//	6   uint16   the errno that is fine (0: none, anyErrno: each); its negative
//	             value is then the step's result
//	8   uint64   six arguments
//	56  uint64   address that takes the result
//
// opJump continues at the step that argument 2 points to if the first two
// arguments are equal; opSet has its first argument as result.
package script
