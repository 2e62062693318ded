package mig

import "errors"

// ErrInUse is what Controller.Destroy and SetMode wrap while a process has the
// slice or board open.
var ErrInUse = errors.New("in use by a process")
