// Package spec answers: what did the bundle ask for, checked and with defaults
// filled in?
//
// What it returns can be relied on by the packages that compile it: fields that
// must be there are there, strings that go to the kernel have no NUL, names are
// known, and fields do not contradict each other. Whether the host has what the
// spec asks for is not asked here; nothing is touched but config.json.
package spec
