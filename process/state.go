package process

import (
	"errors"
	"fmt"
	"time"
)

// Status is what state a process is in. Pausing, Paused and Resuming are states of
// a whole container.
type Status int

// The states.
const (
	Created Status = iota // it waits for Start
	Running
	Pausing
	Paused
	Resuming
	Stopped // it has ended, and waits for Delete
	Deleted
)

func (s Status) String() string {
	return [...]string{"created", "running", "pausing", "paused", "resuming", "stopped", "deleted"}[s]
}

// Action is what can be asked of a process, or happen to it.
type Action int

// The actions.
const (
	Start Action = iota
	Exec
	Pause
	Freeze // what Pause and Resume wait for, or the other one if that fails
	Resume
	Thaw
	Update
	Exit
	Delete
)

func (a Action) String() string {
	return [...]string{"start", "exec in", "pause", "pause", "resume", "resume", "update", "exit", "delete"}[a]
}

// next says what may happen in which state, and what the state is then. What is
// not there is refused with ErrState.
var next = map[Status]map[Action]Status{
	Created:  {Start: Running, Exec: Created, Update: Created, Exit: Stopped, Delete: Deleted},
	Running:  {Exec: Running, Pause: Pausing, Update: Running, Exit: Stopped},
	Pausing:  {Freeze: Paused, Thaw: Running, Exit: Stopped},
	Paused:   {Resume: Resuming, Update: Paused, Exit: Stopped},
	Resuming: {Thaw: Running, Freeze: Paused, Update: Resuming, Exit: Stopped},
	Stopped:  {Delete: Deleted},
}

// The errors of this package, for errors.Is.
var (
	// ErrState: what is asked for cannot happen in the state that things are in.
	ErrState = errors.New("wrong state")
	// ErrNotFound: there is no such container or process, or none any more.
	ErrNotFound = errors.New("not found")
	// ErrExists: a container or process of this ID is there.
	ErrExists = errors.New("already exists")
)

// stateError is ErrState in the words that clients know.
type stateError struct{ text string }

func (e *stateError) Error() string        { return e.text }
func (e *stateError) Is(target error) bool { return target == ErrState }

// allows says whether something may happen in this state. what names who is in
// it: "process" or "container".
func (s Status) allows(a Action, what string) error {
	if _, ok := next[s][a]; !ok {
		return &stateError{fmt.Sprintf("cannot %s a %s %s", a, s, what)}
	}
	return nil
}

// ExitStatus is how a process ended.
type ExitStatus struct {
	Code int // that of exit(2), or 128 and the number of the signal
	At   time.Time
}
