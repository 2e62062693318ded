// Package mig knows how boards are cut into MIG slices: the profiles and legal
// placements of every model, layouts that a file or a name describes, what it
// takes to get from one layout to another, and how to do that on a board in
// use without losing track of where it was.
package mig
