package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/integration/images"
)

// Names of the images of the cluster's own parts. Nothing of that name is ever pulled.
const (
	pauseImage   = "registry.k8s.io/pause:3.10"
	corednsImage = "registry.k8s.io/coredns/coredns:v1.15.0"
	busybox      = "/bin/busybox"
)

// Binaries are what a cluster is made of.
type Binaries struct {
	Kube       string // folder with one link per component, all to the same file
	CoreDNS    string
	kubeRouter string // only of clusters with NetworkPolicies
	pause      string // archives
	coredns    string
	testtool   string
}

func (b Binaries) component(name string) string { return filepath.Join(b.Kube, name) }

// Images are the OCI archives that every node needs: the sandboxes', CoreDNS' and the test tool's.
func (b Binaries) Images() []string { return []string{b.pause, b.coredns, b.testtool} }

var components = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}

// Build makes Kubernetes (etcd included), CoreDNS and the small images, each unless the cache has it for the same
// sources already. It may run several times at once: one builds, the others wait.
func Build(ctx context.Context, root string, log func(string)) (Binaries, error) {
	if log == nil {
		log = func(string) {}
	}
	root, err := FindRoot(root)
	if err != nil {
		return Binaries{}, err
	}
	cache, err := CacheDir()
	if err != nil {
		return Binaries{}, err
	}
	kube := module{dir: filepath.Join(root, "integration/kube"), cache: cache, name: "kube", path: "k8s.io/kubernetes", links: components, log: log}
	kube.flags = func(version string) string {
		const pkg = "k8s.io/component-base/version"
		minor := strings.Split(version, ".")[1]
		return fmt.Sprintf("-s -w -X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s -X k8s.io/client-go/pkg/version.gitVersion=%s", pkg, version, pkg, pkg, minor, version)
	}
	dns := module{dir: filepath.Join(root, "integration/coredns"), cache: cache, name: "coredns", path: "github.com/coredns/coredns", log: log}
	dns.flags = func(string) string { return "-s -w" }
	var b Binaries
	kubeFile, err := kube.build(ctx)
	if err != nil {
		return b, err
	}
	b.Kube = filepath.Dir(kubeFile)
	if b.CoreDNS, err = dns.build(ctx); err != nil {
		return b, err
	}
	return b, b.images(ctx, root, cache)
}

func (b *Binaries) images(ctx context.Context, root, cache string) error {
	own := filepath.Join(cache, "images")
	pause, err := images.BuildProgram(ctx, root, "./integration/images/pause")
	if err != nil {
		return err
	}
	if b.pause, err = images.WriteCached(own, images.Image{Ref: pauseImage, Entrypoint: "/pause", Files: map[string]string{"/pause": pause}}); err != nil {
		return err
	}
	if b.coredns, err = images.WriteCached(own, images.Image{Ref: corednsImage, Entrypoint: "/coredns", Files: map[string]string{"/coredns": b.CoreDNS}}); err != nil {
		return err
	}
	b.testtool, err = images.Testtool(ctx, root, own)
	return err
}

// buildEngine makes kube-router, of which clusters use the NetworkPolicy engine.
func (b *Binaries) buildEngine(ctx context.Context, root string, log func(string)) error {
	root, err := FindRoot(root)
	if err != nil {
		return err
	}
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	m := module{dir: filepath.Join(root, "integration/kube-router"), cache: cache, name: "kube-router", path: "github.com/cloudnativelabs/kube-router/v2", log: log}
	m.flags = func(string) string { return "-s -w" }
	b.kubeRouter, err = m.build(ctx)
	return err
}

// module is a Go module of its own under integration/, whose main package becomes a file of the cache.
type module struct {
	dir, cache string
	name       string // of the file
	path       string // of the dependency whose version names the folder in the cache
	flags      func(version string) string
	links      []string // further names of the file
	log        func(string)
}

func (m module) build(ctx context.Context) (string, error) {
	version, stamp, err := m.sources()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(m.cache, m.name+"-"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file, stampFile := filepath.Join(dir, m.name), filepath.Join(dir, m.name+".sources")
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"), func() { m.log("waiting for another build of " + m.name) })
	if err != nil {
		return "", err
	}
	defer unlock()
	if old, err := os.ReadFile(stampFile); err == nil && string(old) == stamp {
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	m.log(fmt.Sprintf("building %s %s, once for this machine; this takes some minutes", m.name, version))
	if err := goBuild(ctx, m.dir, file, m.flags(version)); err != nil {
		return "", err
	}
	for _, l := range m.links {
		link := filepath.Join(dir, l)
		_ = os.Remove(link)
		if err := os.Symlink(m.name, link); err != nil {
			return "", err
		}
	}
	return file, os.WriteFile(stampFile, []byte(stamp), 0o644)
}

func goBuild(ctx context.Context, dir, file, ldflags string) error {
	part := file + ".part"
	cmd := exec.CommandContext(ctx, "nice", "go", "build", "-trimpath", "-ldflags", ldflags, "-o", part, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", dir, err, out)
	}
	return os.Rename(part, file)
}

// sources returns the version of what is built, and a hash of all that goes into it.
func (m module) sources() (version, stamp string, err error) {
	h := sha256.New()
	for _, f := range []string{"go.mod", "go.sum", "main.go"} {
		b, err := os.ReadFile(filepath.Join(m.dir, f))
		if err != nil {
			return "", "", err
		}
		h.Write(b)
		if f == "go.mod" {
			found := regexp.MustCompile(`\b` + regexp.QuoteMeta(m.path) + ` (v[0-9.]+)\n`).FindSubmatch(b)
			if found == nil {
				return "", "", fmt.Errorf("%s does not name a version of %s", filepath.Join(m.dir, f), m.path)
			}
			version = string(found[1])
		}
	}
	return version, hex.EncodeToString(h.Sum(nil)), nil
}

// CacheDir is where expensive builds are kept, outside the source tree.
func CacheDir() (string, error) {
	if d := os.Getenv("TULLE_CACHE"); d != "" {
		return d, nil
	}
	if d := os.Getenv("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "tulle"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("set TULLE_CACHE: %w", err)
	}
	return filepath.Join(home, ".cache", "tulle"), nil
}

// FindRoot looks upwards, from the given folder or the working directory, for the source tree of tulle.
func FindRoot(from string) (string, error) {
	dir, err := filepath.Abs(from) // "" is the working directory
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/tulle-mesh/tulle\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not in the source tree of tulle", dir)
		}
	}
}

// lockFile waits for a lock that ends with this program. The first time it has to wait, it says so.
func lockFile(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}
