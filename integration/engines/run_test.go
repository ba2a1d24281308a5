package engines

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Runs are containers that tell what they got of an option. If what is wanted has a
// group, only that is compared between the runtimes.
var runs = []struct {
	name  string
	flags string // DIR is a directory of the test
	words string // for testbox
	want  string // of its output
	only  string // the engine that has the option
}{
	{"image's own command", "", "", "^hello\n$", ""},
	{"entrypoint", "--entrypoint /bin/echo", "again", "", ""},
	{"environment", "-e A=b", "env", "(?m)^A=b$", ""},
	{"directory", "-w /data", "pwd", "^/data\n$", ""},
	{"new directory", "-w /new/one", "pwd", "^/new/one\n$", ""},
	{"user by number", "--user 1000:2000", "report ids cwd", "2000", ""},
	{"user by name", "--user user", "id", "1000", ""},
	{"group", "--user user:extra", "id", "2000", ""},
	{"more groups", "--user 1000 --group-add 2001 --group-add 3000", "id", "3000", ""},
	{"hostname", "--hostname named", "hostname", "^named\n$", ""},
	{"domain", "--hostname named --domainname example", "report hostname", "example", "docker"}, // nerdctl sets no domain
	{"status", "", "report status", `"Seccomp": "2"`, ""},
	{"namespaces", "", "report userns", "4294967295", ""},
	{"devices", "", "report devices", "/dev/null", ""},
	{"read-only", "--read-only", "write /data", "EROFS", ""},
	{"read-only, tmpfs", "--read-only --tmpfs /tmp", "write / /tmp /dev/shm", "", ""},
	{"tmpfs", "--tmpfs /mnt:size=64k,mode=1770,uid=1000", "all statfs /mnt -- stat /mnt", "041770", ""},
	{"bind", "-v DIR:/mnt", "all read /mnt/file -- write /mnt", "6", ""},
	{"bind of a file", "-v DIR/file:/etc/hosts", "cat /etc/hosts", "^hello\n$", ""},
	{"bind to a new place", "-v DIR:/a/new/place", "read /a/new/place/file", "6", ""},
	{"bind, read-only", "-v DIR:/mnt:ro", "all read /mnt/file -- write /mnt", "EROFS", ""},
	{"bind, private", "--mount type=bind,src=DIR,dst=/mnt,bind-propagation=private", "mountinfo", "(?m)^.* (/mnt .*)$", ""},
	{"bind, shared", "-v DIR:/mnt:rshared", "write /mnt", "ok", ""},
	{"bind, slave", "-v DIR:/mnt:rslave", "write /mnt", "ok", ""},
	{"volume with what the image has", "-v /data", "read /data/owned", "6", ""},
	{"capabilities added", "--cap-add NET_ADMIN --cap-add SYS_TIME", "report status", "CapEff", ""},
	{"capabilities dropped", "--cap-drop ALL --cap-add CHOWN", "report status", `"CapEff": "0000000000000001"`, ""},
	{"privileged", "--privileged", "report status", `"Seccomp": "0"`, ""},
	{"privileged, sysctl", "--privileged", "write /proc/sys/kernel/hostname /sys/kernel", "ok", ""},
	{"unconfined", "--security-opt seccomp=unconfined", "report status", `"Seccomp": "0"`, ""},
	{"no new privileges", "--security-opt no-new-privileges", "report status", `"NoNewPrivs": "1"`, ""},
	{"profile", "", "all syscall 272 0x10000000 -- syscall 175 0 0 0 -- syscall 135 0xffffffff -- syscall 165 0 0 0 0 0", "EPERM", ""},
	{"masked", "", "all read /proc/kcore /proc/keys /proc/timer_list -- list /sys/firmware -- write /proc/sys /proc/sysrq-trigger", "", ""},
	{"limits", "--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=500", "cat /proc/1/limits", "200", ""},
	{"sysctl", "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.shm_rmid_forced=1", "sysctl net.ipv4.ip_forward kernel.shm_rmid_forced", `"1"`, ""},
	{"device", "--device /dev/full:/dev/brim:r", "all stat /dev/brim -- open /dev/brim rdonly -- open /dev/brim wronly", "", ""},
	{"memory", "--memory 64m", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864", ""},
	{"memory and swap", "--memory 64m --memory-swap 64m --memory-reservation 32m", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.soft_limit_in_bytes", "33554432", ""},
	{"cpus", "--cpus 0.5 --cpu-shares 512 --cpuset-cpus 0", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpuset/cpuset.cpus", "50000\n512\n0", ""},
	{"pids", "--pids-limit 50", "cat /sys/fs/cgroup/pids/pids.max", "50", ""},
	{"pid of the host", "--pid host", "read /proc/1/cmdline", "", ""},
	{"ipc of the host", "--ipc host", "stat /dev/shm", "041777", "docker"}, // nerdctl wants a /dev/mqueue of the host
	{"ipc, private", "--ipc private", "statfs /dev/shm", "", ""},
	{"uts of the host", "--uts host", "hostname", "", "docker"},
	{"network, none", "--net none", "report net", "lo", ""},
	{"network of the host", "--net host", "report net", "lo", ""},
	{"shm", "--shm-size 1m", "statfs /dev/shm", "1048576", ""},
	{"oom score", "--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500", ""},
	{"stop signal", "--stop-signal SIGUSR1", "echo", "", ""},
	{"labels", "--label a=b", "echo", "", ""},
	{"cgroup namespace", "--cgroupns private", "report cgroup", "memory:/\"", ""},
	{"cgroup of the host", "--cgroupns host", "report cgroup", "memory:/", ""},
	{"exit", "", "all echo out -- warn err", "^out\n$", ""},
}

func TestRun(t *testing.T) {
	each(t, func(e *env) {
		dir := e.dir()
		e.must(os.WriteFile(filepath.Join(dir, "file"), []byte("hello\n"), 0o644))
		for _, r := range runs {
			if r.only != "" && r.only != e.engine.name {
				continue
			}
			flags := r.flags
			if !strings.Contains(flags, "--net ") {
				flags += " --net none"
			}
			words := strings.Fields(strings.ReplaceAll("--rm "+flags+" "+image, "DIR", dir))
			if r.words != "" && !strings.Contains(flags, "--entrypoint") {
				words = append(words, "/bin/testbox")
			}
			words = append(words, strings.Fields(r.words)...)
			got := e.quietly(e.run(words...)...)
			found := regexp.MustCompile(r.want).FindStringSubmatch(got.out)
			if got.code != 0 || found == nil {
				e.Errorf("%s: %+v, want %q", r.name, got, r.want)
			}
			if len(found) > 1 {
				got.out = found[1]
			}
			e.seen.add(r.name, got)
		}
	})
}
