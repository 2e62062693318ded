package device

import "github.com/drover-ml/drover/nomadplugin/base"

// Attribute is a typed value with an optional unit, as job constraints
// compare it. It is shared with drivers' fingerprints.
type Attribute = base.Attribute
