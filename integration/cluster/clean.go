package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// stateRoot is where the state folders are: not /tmp, which is often kept in memory.
const stateRoot = "/var/tmp"

func stateDir(name string) string { return filepath.Join(stateRoot, prefix(name)) }

// nameLock is a locked file. The kernel drops the lock when the program that holds it ends, however it ends: what a
// name without a holder left behind may be removed.
type nameLock struct{ f *os.File }

var errTaken = errors.New("the name is taken by a running cluster")

func lockName(name string) (*nameLock, error) {
	path := stateDir(name) + ".lock"
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("cluster %s: %w", name, errTaken)
		}
		// The file may have been removed between opening and locking it: then the lock is on nothing.
		opened, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if there, err := os.Stat(path); err == nil && os.SameFile(opened, there) {
			return &nameLock{f}, nil
		}
		f.Close()
	}
}

func (l *nameLock) release() {
	_ = os.Remove(l.f.Name()) // a file that stays is removed by the next Clean
	l.f.Close()
}

// Clean removes what clusters of killed programs left behind. Running clusters are not touched.
func Clean() error {
	locks, err := filepath.Glob(stateDir("*") + ".lock")
	if err != nil {
		return err
	}
	for _, path := range locks {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), prefix("")), ".lock")
		lock, err := lockName(name)
		if errors.Is(err, errTaken) {
			continue
		}
		if err != nil {
			return err
		}
		err = removeLeftovers(name)
		lock.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// removeLeftovers removes a cluster's namespaces, cgroups and state. Its processes are dead or dying.
func removeLeftovers(name string) error {
	spaces, err := filepath.Glob("/run/netns/" + netnsName(name, "*"))
	if err != nil {
		return err
	}
	// Cgroups first: they can only be removed when the last process is gone, and it may still use the others.
	if err := removeCgroups(name); err != nil {
		return err
	}
	for _, path := range spaces {
		err = errors.Join(err, command(context.Background(), "ip", "netns", "del", filepath.Base(path)))
	}
	return errors.Join(err, os.RemoveAll(stateDir(name)))
}
