package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is one of a container, seen from outside the cluster.
type Process struct {
	PID  int // on this machine
	Args []string
}

// Signal sends a signal past the container's runtime, so that the kubelet isn't told why a process ended.
func (p Process) Signal(sig syscall.Signal) error {
	if err := syscall.Kill(p.PID, sig); err != nil {
		return fmt.Errorf("signal %s: %w", strings.Join(p.Args, " "), err)
	}
	return nil
}

// ContainerProcesses are the processes of a container (the pod's first one if no name is given).
func (c *Cluster) ContainerProcesses(ctx context.Context, namespace, pod, container string) ([]Process, error) {
	which := "[0]"
	if container != "" {
		which = fmt.Sprintf("[?(@.name==%q)]", container)
	}
	out, err := c.Kubectl.Run(ctx, "-n", namespace, "get", "pod", pod, "-o",
		"jsonpath={.spec.nodeName} {.status.containerStatuses"+which+".containerID}")
	if err != nil {
		return nil, err
	}
	place, id, ok := strings.Cut(strings.TrimSpace(out), " ")
	_, id, hasScheme := strings.Cut(id, "://")
	if !ok || !hasScheme {
		return nil, fmt.Errorf("pod %s/%s has no running container %s", namespace, pod, container)
	}
	dir, err := findCgroup(c.o.Name, place, id)
	if err != nil {
		return nil, fmt.Errorf("container %s of pod %s/%s: %w", id, namespace, pod, err)
	}
	return cgroupProcesses(dir)
}

// PodProcesses are the processes of all containers of a pod, that of its sandbox among them: when they die the pod gets
// another address.
func (c *Cluster) PodProcesses(ctx context.Context, namespace, pod string) ([]Process, error) {
	out, err := c.Kubectl.Run(ctx, "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName} {.metadata.uid}")
	if err != nil {
		return nil, err
	}
	place, uid, _ := strings.Cut(strings.TrimSpace(out), " ")
	dir, err := findCgroup(c.o.Name, place, "pod"+uid)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	containers, err := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, f := range containers {
		ps, err := cgroupProcesses(filepath.Dir(f))
		if err != nil {
			return nil, err
		}
		all = append(all, ps...)
	}
	return all, nil
}

// findCgroup looks for the cgroup of a container or a pod; the kubelet decides how deep it lies.
func findCgroup(cluster, place, id string) (string, error) {
	hs, err := hierarchies()
	if err != nil {
		return "", err
	}
	var found string
	err = filepath.WalkDir(filepath.Join(hs[0].path, prefix(cluster), place), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == id {
			found = path
			return filepath.SkipAll
		}
		return err
	})
	if err == nil && found == "" {
		err = errors.New("no such cgroup")
	}
	return found, err
}

func cgroupProcesses(dir string) ([]Process, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var ps []Process
	for f := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, err
		}
		args, err := os.ReadFile(filepath.Join("/proc", f, "cmdline"))
		if err != nil {
			continue // it has just ended
		}
		ps = append(ps, Process{PID: pid, Args: strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")})
	}
	return ps, nil
}
