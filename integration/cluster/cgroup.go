package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

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

// makeCgroup makes tulle-CLUSTER/NODE in every hierarchy.
func makeCgroup(cluster, node string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		parent := h.path
		for _, d := range []string{prefix(cluster), node} {
			if h.v2 {
				if err := delegate(parent); err != nil {
					return err
				}
			}
			dir := filepath.Join(parent, d)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := inheritCpuset(parent, dir); err != nil {
				return err
			}
			parent = dir
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

// joinCgroup moves this process into a node's cgroups. Its child stays there when leave is called, which matters for
// version 2 alone: only a cgroup without processes of its own has children with controllers.
func joinCgroup(cluster, node string) (leave func() error, err error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	leave = func() error { return nil }
	for _, h := range hs {
		if err := os.WriteFile(filepath.Join(h.path, prefix(cluster), node, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return nil, err
		}
		if h.v2 {
			beside := filepath.Join(h.path, prefix(cluster), "enter-"+node)
			leave = func() error { return enterLeaf(beside) }
		}
	}
	return leave, nil
}

func enterLeaf(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644)
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
	}
	return nil
}

func mountCgroup2() error {
	if err := mount("cgroup2", cgroupRoot, "cgroup2", ""); err != nil {
		return err
	}
	if err := enterLeaf(filepath.Join(cgroupRoot, "init")); err != nil {
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
