// Package cgroup answers: how is a container limited, counted, frozen and
// killed? It makes the container's control group in every hierarchy of the
// machine (cgroup v2 alone, v1, or the hybrid of both; by itself or through
// systemd) and does to it what the OCI spec's linux.resources and containerd ask
// for.
//
//	location.go   where is the group, by linux.cgroupsPath?
//	dir.go        its directory in one hierarchy, and the files and groups in that
//	create.go     its directories, and what is needed before the first process
//	join.go       how a process gets into it
//	plan*.go      limits to an ordered list of writes; pure. warnings.go: those left out
//	devices.go    device rules to v1's lists, and (program.go) to v2's program; pure
//	apply.go      does the writes; of an update that fails, none
//	freeze.go, kill.go, oom.go, stats*.go, group.go (pids, delete)
//	systemd.go    the same limits in systemd's words; pure
//	systemd_dbus.go  tells systemd
//
// What runc does is the measure: TestLikeRunc gives the same limits to a
// container of runc and to a group of ours, sixty updates in a row, and compares
// all files of both, and what systemctl shows. Where it is not followed, and why:
//
//   - ".." in cgroupsPath is an error; runc makes another path of it.
//   - A missing controller matters only to a limit: "unlimited" is no limit.
//   - A process is born in the group and counted there: a full one (pids.max)
//     refuses execs, where runc moves a process in, which nothing refuses on v1.
//   - A failed Update is taken back; runc writes the new values again.
//   - An Update of the period alone keeps the quota (runc forgets it after any
//     other update, on v2), and limits of huge pages, RDMA and network, which
//     runc does not update, are set.
//   - v2: a throttle of 0 lifts it, as on v1, where runc's is refused; and a
//     device that is denied for writing is denied for reading and writing.
//   - A group is given to the container's user without systemd, too: its own
//     systemd, in a user namespace, needs it.
//   - systemd is told of swap that is off and of I/O limits, which it would
//     otherwise undo when it is reloaded.
//
// # What it costs
//
// Measured on two cores, Linux 6.18, hybrid with 10 hierarchies, 25 ms of
// idleness before each; median µs:
//
//	Create               780   of this the kernel's mkdirs 580: cpuset 211, unified 100, memory 67
//	Join, the first one   78   opens 9 tasks files and a detached mount
//	joining              150   9 × write "0", by the child; and 30 for CLONE_INTO_CGROUP
//	Set                   90   device rules alone; 130 with limits of memory, cpu, cpuset, pids
//	Update               136   reads what it would have to take back
//	Stats                298   30 files; on v2 17
//	Freeze, Thaw, Kill   150, 90, 120
//	Delete               615   rmdirs 310, the detached mount 60
//
// A write of a pid to cgroup.procs, or by the child of "0" to it, would wait for
// a grace period of RCU instead: 9500. Statistics are read through the group's
// directory descriptor and not through descriptors kept open for each file: that
// would save a third of 0.3 ms every ten seconds, for 30 descriptors more.
//
// containerd/cgroups is used for its metrics, the messages that containerd and
// its clients expect. Its collectors open every file by path, and with them come
// libraries for BPF and huge tables: 1.8 MB of code. TestStats compares ours with
// them, number by number.
package cgroup
