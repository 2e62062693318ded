package base

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
