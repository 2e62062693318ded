// Package lab sets up clusters of real processes, on this machine, that tests
// and benchmarks may take apart: a devcluster or two agents of a Nomad binary,
// with Drover's plugins, and an orchestrator beside them.
package lab
