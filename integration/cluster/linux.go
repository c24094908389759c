//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// usable says why no cluster can run here.
func usable() error {
	if os.Geteuid() != 0 {
		return errors.New("an embedded cluster needs root")
	}
	return nil
}

// lasting is for a process that must end with this one. The kernel kills it when the thread that started it ends.
func lasting() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// namespaced is for the first process of a node.
func namespaced() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
	}
}

// joinNet moves the calling thread into a network namespace.
func joinNet(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("join %s: %w", path, err)
	}
	return nil
}

func setHostname(name string) error { return unix.Sethostname([]byte(name)) }

func mount(source, target, fs, data string) error {
	if err := unix.Mount(source, target, fs, 0, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fs, target, err)
	}
	return nil
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	return nil
}

// setPropagation of every mount: private first, so that nothing gets out, then shared, which kubelets want.
func setPropagation(shared bool) error {
	flag := uintptr(unix.MS_PRIVATE)
	if shared {
		flag = unix.MS_SHARED
	}
	return unix.Mount("", "/", "", unix.MS_REC|flag, "")
}

func fsIs(path string, magic int64) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && int64(s.Type) == magic
}

func onOverlay(path string) bool { return fsIs(path, unix.OVERLAYFS_SUPER_MAGIC) }
func onCgroup2(path string) bool { return fsIs(path, unix.CGROUP2_SUPER_MAGIC) }
