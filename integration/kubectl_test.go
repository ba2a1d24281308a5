package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/myshim/myshim/integration/harness"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Session is what kubectl exec and kubectl attach have with a container: the plugin
// answers a request with an address, and a connection to that has a stream for
// each of stdin, stdout and stderr, for sizes of the terminal, and for the result.
type session struct {
	k        *kubelet
	conn     httpstream.Connection
	stdin    io.WriteCloser
	sizes    io.Writer
	out, err harness.Buffer
	status   []byte
	ended    chan error
}

func (c *member) kubectlExec(terminal bool, words ...string) *session {
	c.Helper()
	r, err := c.Exec(c.ctx, &cri.ExecRequest{
		ContainerId: c.id, Cmd: append([]string{"/bin/testbox"}, words...), Stdin: true, Stdout: true, Stderr: !terminal, Tty: terminal})
	c.must(err)
	return c.session(r.Url, terminal)
}

func (c *member) kubectlAttach() *session {
	c.Helper()
	r, err := c.Attach(c.ctx, &cri.AttachRequest{ContainerId: c.id, Stdin: true, Stdout: true, Stderr: !c.config.Tty, Tty: c.config.Tty})
	c.must(err)
	return c.session(r.Url, c.config.Tty)
}

func (k *kubelet) session(url string, terminal bool) *session {
	k.Helper()
	spdy, err := spdy.NewRoundTripper(nil)
	k.must(err)
	request, err := http.NewRequestWithContext(k.ctx, http.MethodPost, url, nil)
	k.must(err)
	request.Header.Set(httpstream.HeaderProtocolVersion, "v4.channel.k8s.io")
	response, err := spdy.RoundTrip(request)
	k.must(err)
	s := &session{k: k, ended: make(chan error, 1)}
	s.conn, err = spdy.NewConnection(response) // or the reason why there is none
	k.must(err)
	k.Cleanup(s.detach)
	status := s.stream("error")
	s.stdin = s.stream("stdin")
	output := []io.Reader{s.stream("stdout")}
	if terminal {
		s.sizes = s.stream("resize")
	} else {
		output = append(output, s.stream("stderr"))
	}
	go func() {
		var copies sync.WaitGroup
		for i, buffer := range []io.Writer{&s.out, &s.err}[:len(output)] {
			copies.Go(func() { _, _ = io.Copy(buffer, output[i]) }) // what is missing is seen
		}
		var err error
		s.status, err = io.ReadAll(status)
		copies.Wait()
		s.ended <- err
	}()
	return s
}

func (s *session) stream(kind string) httpstream.Stream {
	s.k.Helper()
	stream, err := s.conn.CreateStream(http.Header{"Streamtype": {kind}})
	s.k.must(err)
	return stream
}

func (s *session) write(text string) {
	s.k.Helper()
	_, err := io.WriteString(s.stdin, text)
	s.k.must(err)
}

func (s *session) resize(width, height int) {
	s.k.Helper()
	_, err := fmt.Fprintf(s.sizes, `{"Width": %d, "Height": %d}`, width, height)
	s.k.must(err)
}

func (s *session) await(text string) {
	s.k.Helper()
	s.k.must(s.out.Await(s.k.ctx, text))
}

// Detach also when the other side has hung up.
func (s *session) detach() { _ = s.conn.Close() }

// End is what kubectl shows and exits with.
func (s *session) end() result {
	s.k.Helper()
	select {
	case err := <-s.ended:
		s.k.must(err)
	case <-s.k.ctx.Done():
		s.k.Fatalf("a session doesn't end: %v", s.k.ctx.Err())
	}
	var status struct {
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	s.k.must(json.Unmarshal(s.status, &status))
	r := result{out: s.out.String(), err: s.err.String()}
	for _, cause := range status.Details.Causes {
		if cause.Reason == "ExitCode" {
			_, err := fmt.Sscan(cause.Message, &r.code)
			s.k.must(err)
		}
	}
	return r
}
