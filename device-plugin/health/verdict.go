package health

import "github.com/drover-ml/drover/internal/gpustatus"

// Severity is what a signal does to a device.
type Severity string

// The severities, from mild to severe.
const (
	Record    Severity = "record"    // it is counted; the device stays in service
	Degraded  Severity = "degraded"  // it is shown to people; the device stays in service
	Unhealthy Severity = "unhealthy" // the device is condemned: it gets no new work
)

// Verdict is what follows from a signal.
type Verdict struct {
	Severity Severity
	// Action is what becomes of the work that runs on a condemned device; ""
	// with any other severity.
	Action gpustatus.Action
}

// The verdicts that the tables use.
var (
	record   = Verdict{Severity: Record}
	degraded = Verdict{Severity: Degraded}
	keep     = Verdict{Severity: Unhealthy, Action: gpustatus.Keep}
	move     = Verdict{Severity: Unhealthy, Action: gpustatus.Move}
	end      = Verdict{Severity: Unhealthy, Action: gpustatus.End}
)

func (v Verdict) condemns() bool { return v.Severity == Unhealthy }

// remedy is what ends a condition that an event began.
type remedy string

const (
	remedyReset    remedy = "reset"    // a reset of the board, or a restart of the node
	remedyQuiet    remedy = "quiet"    // it does not happen again for a while
	remedyReadings remedy = "readings" // good readings
	remedyOperator remedy = "operator" // a person, after a repair
)
