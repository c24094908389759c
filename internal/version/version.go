// Package version names the build.
package version

// Version is set by the linker (-X) from the newest tag; "dev" in a build without.
var Version = "dev"
