// Package version is which build of Drover this is.
package version

// Version is the release, a semantic version; Commit is the source's, "" if
// unknown. The build sets both.
var (
	Version = "0.1.0"
	Commit  = ""
)

// String is what `version` commands print.
func String() string {
	if Commit == "" {
		return Version
	}
	return Version + " (" + Commit + ")"
}
