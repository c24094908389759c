package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	initLeaf   = "init" // of a node's cgroup: its daemons
)

// hierarchy is one mounted tree of cgroups. With version 2 there is a single one, at cgroupRoot itself.
type hierarchy struct {
	path    string
	v2      bool
	options string // for mounting it again (version 1)
}

func hierarchies() ([]hierarchy, error) {
	if onCgroup2(cgroupRoot) {
		return []hierarchy{{path: cgroupRoot, v2: true}}, nil
	}
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	known := map[string]bool{}
	for _, c := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "perf_event", "net_cls", "net_prio", "rdma", "misc"} {
		known[c] = true
	}
	var hs []hierarchy
	for sc := bufio.NewScanner(f); sc.Scan(); {
		m := strings.Fields(sc.Text())
		if len(m) < 4 || m[2] != "cgroup" {
			continue
		}
		opts := slices.DeleteFunc(strings.Split(m[3], ","), func(o string) bool { return !known[o] && !strings.HasPrefix(o, "name=") })
		if strings.HasPrefix(opts[0], "name=") {
			opts = append([]string{"none"}, opts...)
		}
		hs = append(hs, hierarchy{path: m[1], options: strings.Join(opts, ",")})
	}
	if len(hs) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted at %s", cgroupRoot)
	}
	return hs, nil
}

// makeCgroups makes tulle-CLUSTER with one cgroup for each machine of the cluster, in every hierarchy. The machines are
// equals, and whatever runs inside one competes with the others as that one.
func makeCgroups(cluster string, machines []string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		dir := filepath.Join(h.path, prefix(cluster))
		if err := h.makeChild(dir); err != nil {
			return err
		}
		if err := setWeight(dir, len(machines)); err != nil {
			return err
		}
		for _, m := range machines {
			if err := h.makeChild(filepath.Join(dir, m)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h hierarchy) makeChild(dir string) error {
	parent := filepath.Dir(dir)
	if h.v2 {
		if err := delegate(parent); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return inheritCpuset(parent, dir)
}

// setWeight gives a cluster the default weight (1024, in version 2: 100) once for each machine. That of a single machine
// has a session outside of all cgroups, or without the kernel's autogroups a thread: a test program or kubectl counts as
// one machine more. More weight would starve those: with twice as much, kubectl takes twice as long beside busy pods.
// 100 machines are the most, and 10000 is the most that version 2 takes.
func setWeight(dir string, machines int) error {
	for file, weight := range map[string]int{"cpu.weight": 100 * machines, "cpu.shares": 1024 * machines} {
		path := filepath.Join(dir, file)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			continue // the other version, another hierarchy, or a kernel that has no CPU controller here
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(weight)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// inheritCpuset fills a new cpuset of version 1, which is empty and so takes no process.
func inheritCpuset(parent, dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, f))
		if err != nil || len(strings.TrimSpace(string(b))) == 0 {
			continue // another hierarchy, or version 2
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// delegate turns on all controllers for the children of a cgroup of version 2.
func delegate(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(b)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("cgroup controller %s: %w", c, err)
		}
	}
	return nil
}

// joinCgroups moves this process into the cgroups of a machine. Its children stay where they are.
func joinCgroups(cluster, machine string) error {
	files, err := cgroupFiles(cluster, machine)
	for _, f := range files {
		err = errors.Join(err, os.WriteFile(f, []byte("0"), 0o644))
	}
	return err
}

// cgroupFiles are those that a PID is written to for moving its process into the cgroups of a machine.
func cgroupFiles(cluster, machine string) ([]string, error) {
	hs, err := hierarchies()
	files := make([]string, len(hs))
	for i, h := range hs {
		files[i] = filepath.Join(h.path, prefix(cluster), machine, "cgroup.procs")
	}
	return files, err
}

// enterLeaf moves a node's first process, and so all its daemons, beside the kubepods of its kubelet, as a real machine's
// are in system.slice: each of their threads would weigh half of all pods together otherwise. In version 2 a cgroup with
// children that have controllers must not have processes anyway.
func enterLeaf(node string) error {
	leaf := filepath.Join(node, initLeaf)
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return err
	}
	if err := inheritCpuset(node, leaf); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644)
}

// mountCgroups shows a node its own cgroups as if they were the machine's. It runs in a new cgroup namespace; hs was
// read before a new /sys hid what it lists.
func mountCgroups(hs []hierarchy) error {
	if hs[0].v2 {
		return mountCgroup2()
	}
	if err := mount("cgroup", cgroupRoot, "tmpfs", "mode=755"); err != nil {
		return err
	}
	for _, h := range hs {
		if err := os.MkdirAll(h.path, 0o755); err != nil {
			return err
		}
		if err := mount("cgroup", h.path, "cgroup", h.options); err != nil {
			return err
		}
		if err := enterLeaf(h.path); err != nil {
			return err
		}
	}
	return nil
}

func mountCgroup2() error {
	if err := mount("cgroup2", cgroupRoot, "cgroup2", ""); err != nil {
		return err
	}
	if err := enterLeaf(cgroupRoot); err != nil {
		return err
	}
	var err error
	for range 100 { // the process that started this one is leaving at the same time
		if err = delegate(cgroupRoot); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// removeCgroups removes what is left of a cluster's cgroups, once its processes are gone.
func removeCgroups(cluster string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, h := range hs {
		dir := filepath.Join(h.path, prefix(cluster))
		for removeTree(dir) != nil {
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup %s: %w", dir, removeTree(dir))
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// removeTree removes a folder of cgroups from the leaves up; their files go with them.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, d := range slices.Backward(dirs) {
		err = errors.Join(err, os.Remove(d))
	}
	return err
}
