package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
)

// processes are those that this program started for a cluster: the control plane and the first process of every node.
type processes struct {
	logDir string
	spawn  chan func()
	died   chan string // the name of one that ended

	mu  sync.Mutex
	all []*process // in starting order
}

type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func newProcesses(logDir string) *processes {
	p := &processes{logDir: logDir, spawn: make(chan func()), died: make(chan string, 200)}
	// Children are killed when the thread that started them ends: one thread that lasts starts them all.
	go func() {
		runtime.LockOSThread()
		for f := range p.spawn {
			f()
		}
	}()
	return p
}

// start runs a command that ends with this program; its output goes to NAME.log.
func (p *processes) start(name string, env []string, argv ...string) error {
	f, err := os.Create(filepath.Join(p.logDir, name+".log"))
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.SysProcAttr = f, f, append(os.Environ(), env...), lasting()
	started := make(chan error)
	p.spawn <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	proc := &process{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(proc.done)
		p.died <- name
	}()
	p.mu.Lock()
	p.all = append(p.all, proc)
	p.mu.Unlock()
	return nil
}

// on is the command line that runs another one on a machine of the cluster: in its cgroups and its network. The shell
// becomes nsenter and that the program, as the same process.
func (c *Cluster) on(machine string, argv ...string) ([]string, error) {
	files, err := cgroupFiles(c.o.Name, machine)
	if err != nil {
		return nil, err
	}
	script := `exec "$@"`
	for _, f := range files {
		script = "echo $$ >'" + f + "' && " + script
	}
	return append([]string{"sh", "-c", script, "sh", "nsenter", "--net=" + c.netns(machine)}, argv...), nil
}

// find returns the newest process of that name.
func (p *processes) find(name string) *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, proc := range slices.Backward(p.all) {
		if proc.name == name {
			return proc
		}
	}
	return nil
}

func (p *processes) signal(name string, sig syscall.Signal) error {
	proc := p.find(name)
	if proc == nil {
		return fmt.Errorf("no process %q", name)
	}
	if err := proc.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	return nil
}

// killAll ends them, the last one first. The death of a node's first process ends its PID namespace and so all in it.
func (p *processes) killAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, proc := range slices.Backward(p.all) {
		_ = proc.cmd.Process.Kill() // it may have ended already
	}
	for _, proc := range p.all {
		<-proc.done
	}
	close(p.spawn)
}

// tail is the end of a log, for error messages.
func (p *processes) tail(name string) string {
	b, err := os.ReadFile(filepath.Join(p.logDir, name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-1500):])
}
