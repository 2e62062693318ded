//go:build !race

package main

// raceFlags build the plugin as the tests are built.
var raceFlags []string
