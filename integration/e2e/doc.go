// Package e2e tests tulle on real clusters. It has only tests: TULLE_E2E=1 runs them on the embedded cluster (Linux,
// root). With KUBECONFIG set as well they run on that cluster instead; TULLE_E2E_LOAD_IMAGE is then the command that
// loads an image archive into it, with {archive} where the path belongs, for example
// "kind load image-archive {archive}".
//
// TULLE_E2E_UPGRADE_FROM names the commit that upgrades begin with, instead of the one before.
//
// A suite is a function with a line in the table of suites_test.go.
package e2e
