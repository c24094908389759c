package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages are the Debian packages that a cluster needs, by a file of each.
var packages = []struct{ name, file string }{
	{"containerd", "containerd"},
	{"runc", "runc"},
	{"containernetworking-plugins", "/usr/lib/cni/bridge"},
	{"iptables", "iptables"},
	{"nftables", "nft"},
	{"iproute2", "ip"},
	{"busybox-static", busybox},
	{"ipset", "ipset"},
	{"conntrack", "conntrack"},
	{"procps", "sysctl"},
}

// InstallPackages installs the Debian packages that are missing.
func InstallPackages(ctx context.Context, log func(string)) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install the programs of the Debian packages %s first", strings.Join(missing, ", "))
	}
	if log != nil {
		log("installing " + strings.Join(missing, " "))
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, missing...)
	if aptGet(ctx, install...) == nil {
		return nil
	}
	// The usual reason is an empty or old list of packages.
	if err := aptGet(ctx, "update"); err != nil {
		return err
	}
	return aptGet(ctx, install...)
}

// UnpackProgram takes one file out of a Debian package, unless the cache has it, and returns where it is. The package is
// not installed: a daemon that it holds doesn't start.
func UnpackProgram(ctx context.Context, name, file, cache string) (string, error) {
	dir := filepath.Join(cache, "debian-"+name)
	program := filepath.Join(dir, file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"), func() {})
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	// A mirror drops old versions, so the list of packages may be too old as well as empty.
	if aptGetIn(ctx, dir, "download", name) != nil {
		if err := aptGet(ctx, "update"); err != nil {
			return "", err
		}
		if err := aptGetIn(ctx, dir, "download", name); err != nil {
			return "", err
		}
	}
	const script = `mkdir -p "$(dirname "$2")"
dpkg-deb --fsys-tarfile "$1"_*.deb | tar -xO "./$2" >"$2.part"
chmod 755 "$2.part"
mv "$2.part" "$2"
rm "$1"_*.deb`
	unpack := exec.CommandContext(ctx, "sh", "-euc", script, "unpack", name, file)
	unpack.Dir = dir
	if out, err := unpack.CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack Debian's package %s: %w: %s", name, err, out)
	}
	return program, nil
}

func missingPackages() []string {
	var missing []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.file); err != nil {
			missing = append(missing, p.name)
		}
	}
	return missing
}

func aptGet(ctx context.Context, args ...string) error { return aptGetIn(ctx, "", args...) }

func aptGetIn(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
