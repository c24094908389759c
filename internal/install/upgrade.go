package install

import (
	"context"
	"fmt"
)

// UpgradeOptions say what Upgrade does.
type UpgradeOptions struct {
	Options          // Values are merged over the installed ones
	ResetValues bool // forget the installed ones
}

// Upgrade brings an installed release to this version, keeping its values but those that are given. An older version
// of this command rolls back in the same way.
func (i *Installer) Upgrade(ctx context.Context, o UpgradeOptions) error {
	if err := i.refuseHelm(ctx); err != nil {
		return err
	}
	old, err := ReadRecord(ctx, i.Cluster, i.Namespace)
	if err != nil {
		return err
	}
	if old == nil {
		return WithNext(fmt.Errorf("the mesh is not installed in namespace %s", i.Namespace),
			"install it with `tulle install`, or name its namespace with --namespace")
	}
	if !o.ResetValues {
		o.Values = o.Values.Over(old.Values)
	}
	i.say("installed: %s", old.Version)
	return i.Install(ctx, o.Options)
}
