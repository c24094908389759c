package e2e

import "time"

// All the time that tests may take, in one place. They are limits: whatever is waited for is polled.
const (
	pollEvery = 100 * time.Millisecond

	rolloutTimeout = 3 * time.Minute  // a Deployment or DaemonSet becomes ready
	settleTimeout  = time.Minute      // anything else that the cluster does
	execTimeout    = 2 * time.Minute  // a command in a pod
	installTimeout = 5 * time.Minute  // tulle install, upgrade, uninstall
	buildTimeout   = 15 * time.Minute // programs and images
	lookEvery      = 20 * time.Second // Flagger is asked to look again
	forwardTimeout = 15 * time.Second // a port-forward opens

	atOnce           = time.Second      // a change of policy takes effect
	identityLifetime = 15 * time.Second // of the access suite: that of a pod's identity

	shortLife  = 20 * time.Second // of the tunnels suite: that of certificates, which are renewed under load
	outageLife = 90 * time.Second // the same: of those that have to do without controllers
	workerGap  = 5 * time.Second  // the same: between the end of a worker and an answer by the next one on another node
	rootSpread = 20 * time.Second // how long a new root is trusted before it signs
)
