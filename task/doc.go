// Package task answers: what does each RPC of containerd's Task service mean?
//
// A request is decoded, is one call of package process, and its answer encoded;
// what happens to containers comes back as events. Protobuf types end here.
//
//	RPC         process                        event
//	Create      process.Create                 TaskCreate
//	Start       Container.Start                TaskStart
//	            Container.StartExec            TaskExecStarted
//	Exec        Container.Exec                 TaskExecAdded
//	State       Process.State
//	Wait        Process.Wait
//	Kill        Container.Kill, Process.Signal
//	Pids        Container.Pids
//	Pause       Container.Pause                TaskPaused
//	Resume      Container.Resume               TaskResumed
//	Update      Container.Update
//	Stats       Container.Stats
//	ResizePty   Process.Resize
//	CloseIO     Process.CloseStdin
//	Delete      Container.Delete               TaskDelete
//	            Container.DeleteExec
//	Connect     (this process, and the init)
//	Shutdown    (this process)
//	Checkpoint  ErrNotImplemented
//	            (a process ends)               TaskExit
//	            (the kernel kills for memory)  TaskOOM
package task
