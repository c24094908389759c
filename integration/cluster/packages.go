package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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

func missingPackages() []string {
	var missing []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.file); err != nil {
			missing = append(missing, p.name)
		}
	}
	return missing
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
