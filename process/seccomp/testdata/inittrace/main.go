// Inittrace does nothing but have package seccomp in it, see TestNoInit.
package main

import "github.com/myshim/myshim/process/seccomp"

func main() {
	if _, err := seccomp.Compile(nil); err != nil {
		panic(err)
	}
}
