// Package tig is what nerdctl's own tests are written with, as far as nerdctl needs
// it to be built: its repository has it in place of a module.
package tig

type T interface {
	Log(args ...any)
	FailNow()
}
