package pipeline

import "regexp"

// endpointName leaves room for "drover-<workspace>-" in a DNS label.
var endpointName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)

// ValidEndpointName reports whether an endpoint may have the name: it becomes
// part of a service's name, and so of a DNS label.
func ValidEndpointName(name string) bool { return endpointName.MatchString(name) }
