package process

import (
	"errors"
	"slices"
)

// undo is a list of what has to be unmade when something fails half-way.
type undo []func() error

// add is called right after something was made.
func (u *undo) add(unmake func() error) { *u = append(*u, unmake) }

// keep keeps what was made.
func (u *undo) keep() { *u = nil }

// run unmakes what was not kept, the last first, and joins what goes wrong with
// that to the error.
func (u *undo) run(err *error) {
	for _, unmake := range slices.Backward(*u) {
		*err = errors.Join(*err, unmake())
	}
}
