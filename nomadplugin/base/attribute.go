package base

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Attribute is a typed value with an optional unit, as Nomad's constraints
// compare it. Make one with Int, Float, String or Bool.
type Attribute struct {
	// Value is an int64, float64, string or bool.
	Value any
	// Unit goes with numbers only, and is one of Nomad's: KiB MiB GiB TiB PiB
	// EiB, kB KB MB GB TB PB EB, each of those with "/s", MHz GHz, mW W kW MW GW.
	Unit string
}

// Int makes an integer attribute; unit may be "".
func Int(v int64, unit string) Attribute { return Attribute{Value: v, Unit: unit} }

// Float makes a float attribute; unit may be "".
func Float(v float64, unit string) Attribute { return Attribute{Value: v, Unit: unit} }

// String makes a string attribute.
func String(v string) Attribute { return Attribute{Value: v} }

// Bool makes a boolean attribute.
func Bool(v bool) Attribute { return Attribute{Value: v} }

var (
	byteUnits  = []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "kB", "KB", "MB", "GB", "TB", "PB", "EB"}
	otherUnits = []string{"MHz", "GHz", "mW", "W", "kW", "MW", "GW"}
)

// Validate reports what an agent would refuse. An agent drops all devices of
// a plugin that sends it one invalid attribute.
func (a Attribute) Validate() error {
	switch v := a.Value.(type) {
	case int64:
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("value %v is not a number that constraints can compare", v)
		}
	case string, bool:
		if a.Unit != "" {
			return fmt.Errorf("unit %q on a %T: only numbers have units", a.Unit, v)
		}
	default:
		return fmt.Errorf("value is a %T, want one made by Int, Float, String or Bool", v)
	}
	if a.Unit == "" || slices.Contains(byteUnits, strings.TrimSuffix(a.Unit, "/s")) || slices.Contains(otherUnits, a.Unit) {
		return nil
	}
	return fmt.Errorf("unit %q is unknown to Nomad", a.Unit)
}
