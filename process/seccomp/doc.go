// Package seccomp answers: which BPF program is the spec's linux.seccomp?
//
// It makes no system call. What it returns goes to seccomp(2) as it is.
//
// # What a profile means
//
// The spec says little, so it means what runc makes of it through libseccomp
// 2.5.4 (whose programs the tests compare with ours):
//
//   - The native architecture is always there; another one only if listed. A
//     call by any other, or by x32 if that is not listed, kills the thread.
//   - An unconditional rule beats the conditional ones of the same system call;
//     of two, the first one counts. Rules with the default's action are left out.
//   - The conditions of a rule hold together, unless two of them are about the
//     same argument: then each of them is a rule of its own.
//   - Of conditional rules that overlap, the order of the profile does not
//     decide: see precedence.
//   - 32-bit architectures, x32 among them, compare the low half of an argument.
//   - On x86 a rule for socket(2), or another of the calls that socketcall(2) and
//     ipc(2) stand for, is one for them too. What they point to cannot be seen:
//     a condition on the first argument is lost there.
//   - Unless the default is to let calls pass, those newer than all that the
//     profile names get ENOSYS: programs then do without them, as they would not
//     if they got EPERM.
//
// Where we differ: names newer than libseccomp are known; an errnoRet that the
// action cannot carry is an error, as the spec demands; ENOSYS on arm is not
// lost because its private calls have high numbers; and what libseccomp 2.5.4
// gets wrong, see TestLibseccompWrong.
//
// # Cost
//
// The runs of consecutive numbers with the same action become the leaves of a
// balanced tree of comparisons. At its load the kernel walks the program for
// every system call to find out which ones are always allowed, so the depth
// decides: the tree loads several times as fast as a list of comparisons.
package seccomp

//go:generate go run gensyscalls.go
