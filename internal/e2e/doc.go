// Package e2e runs Drover's real processes against a Nomad cluster and takes
// them apart while they work.
//
// Every test runs on the devcluster, and on a real Nomad as well where a
// `nomad` binary is on the PATH. It needs the binaries of `make build`.
package e2e
