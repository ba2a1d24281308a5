package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/shim/command"
)

const (
	// How long the last events may take, and the last replies.
	flushTimeout = 5 * time.Second
	replyTimeout = time.Second
	// The same after Release: `delete` is waiting, and containerd is up.
	releaseTimeout = time.Second
)

// idleTimeout is how long a daemon which serves no container waits for a
// client. It gets that far if containerd dies, or gives up, between `start` and
// Create or between Delete and Shutdown, and nobody would ever end it.
var idleTimeout = time.Minute // shorter in tests

// daemon is the process that `start` leaves behind.
type daemon struct {
	listener net.Listener
	socket   unix.Stat_t // of its file
	events   *events
	conns    *conns
	service  Service
	idle     *time.Timer // runs while no client is connected
	once     sync.Once
	stop     chan time.Duration // how long the last events may take
}

func (r Runtime) daemon(line command.Line) (err error) {
	if err := line.Check(); err != nil {
		return err
	}
	d := &daemon{stop: make(chan time.Duration, 1)}
	if err := d.inherit(command.ListenerFD); err != nil {
		return err
	}
	if err := openLog(line.Debug); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			log.L.WithError(err).Error("the daemon does not start")
		}
	}()
	signals := notify()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.conns = &conns{
		open:    make(map[*conn]struct{}),
		changed: d.clientsChanged,
		request: newMemory().wake,
	}
	d.events = newEvents(line.Namespace, os.Getenv("TTRPC_ADDRESS"))
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(d.conns))
	if err != nil {
		return err
	}
	server.RegisterService(command.ReleaseService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		command.ReleaseMethod: d.handleRelease,
	}})
	d.service, err = r.Serve(ctx, Daemon{
		ID:        line.ID,
		Namespace: line.Namespace,
		Publish:   d.events.Publish,
		Shutdown:  func() { d.shutdown(flushTimeout) },
	}, server)
	if err != nil {
		return err
	}
	d.idle = time.NewTimer(idleTimeout)
	go func() {
		// Not ctx: it is that of the requests, which are still to be answered
		// when the daemon has been told to exit.
		err := server.Serve(context.Background(), d.listener)
		log.L.WithError(err).Error("no more connections are accepted")
		d.shutdown(flushTimeout)
	}()

	for {
		select {
		case s := <-signals:
			switch s {
			case unix.SIGTERM, unix.SIGINT:
				log.L.Infof("exiting because of %v", s)
				d.shutdown(flushTimeout)
			case unix.SIGUSR1:
				logStacks()
			}
		case <-d.idle.C:
			d.exitIfIdle()
		case patience := <-d.stop:
			cancel()
			d.finish(patience)
			return nil
		}
	}
}

// inherit takes over the socket that `start` made.
func (d *daemon) inherit(fd int) error {
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		return errors.New("no action, see -help")
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	var err error
	if d.listener, err = net.FileListener(f); err != nil {
		return err
	}
	// Without it nobody will connect, but what is in the queue is served.
	if err := unix.Lstat(d.listener.Addr().String(), &d.socket); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("stat %s: %w", d.listener.Addr(), err)
	}
	return nil
}

// notify makes signals harmless that are not for the daemon: a handler, unlike
// SIG_IGN, is not inherited by what it runs.
func notify() <-chan os.Signal {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGHUP, unix.SIGPIPE)
	return signals
}

// shutdown makes the daemon exit soon. The socket goes at once: so a `delete`
// which follows on the reply finds nobody to talk to, and a `start` of the same
// ID makes a new daemon. We are still listening, so if the file is our socket,
// it remains so until it is unlinked: only one that nobody listens on is
// replaced.
func (d *daemon) shutdown(patience time.Duration) {
	d.once.Do(func() {
		var now unix.Stat_t
		file := d.listener.Addr().String()
		if err := unix.Lstat(file, &now); err == nil && now.Dev == d.socket.Dev && now.Ino == d.socket.Ino {
			if err := unix.Unlink(file); err != nil {
				log.L.WithError(err).Warnf("unlink %s", file)
			}
		}
		d.stop <- patience
	})
}

func (d *daemon) finish(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	d.conns.answered(ctx)
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	d.events.Flush(ctx)
}

func (d *daemon) handleRelease(_ context.Context, unmarshal func(any) error) (any, error) {
	var request taskapi.ConnectRequest
	if err := unmarshal(&request); err != nil {
		return nil, err
	}
	reply := new(taskapi.ConnectResponse)
	d.service.Release(request.ID)
	if d.service.CloseIfIdle() {
		log.L.Infof("exiting: %s was the last container", request.ID)
		reply.ShimPid = uint32(os.Getpid())
		d.shutdown(releaseTimeout)
	}
	return reply, nil
}

func (d *daemon) clientsChanged(connected int) {
	if connected == 0 {
		d.idle.Reset(idleTimeout)
	} else {
		d.idle.Stop()
	}
}

func (d *daemon) exitIfIdle() {
	if !d.conns.unconnected() {
		return // it runs again when the client has gone
	}
	if !d.service.CloseIfIdle() {
		d.idle.Reset(idleTimeout) // a Create may be failing yet, with nobody to tell
		return
	}
	log.L.Infof("exiting: without a container, and without a client for %v", idleTimeout)
	d.shutdown(flushTimeout)
}

func logStacks() {
	buf := make([]byte, 64<<10)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	// One line each, so that none is cut off.
	for stack := range strings.SplitSeq(string(buf[:n]), "\n\n") {
		log.L.Info(stack)
	}
}
