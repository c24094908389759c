// Package manifests holds what is installed into a cluster: the Helm chart with the CRDs, embedded.
package manifests

import "embed"

// Chart is the Helm chart, below the directory "chart".
//
//go:embed all:chart
var Chart embed.FS
