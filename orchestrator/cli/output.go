package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// jsonFlag adds -json.
func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "Print JSON")
}

// printJSON prints v, indented.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	return nil
}

// printError says what went wrong, with each field that is wrong and each
// problem of a pipeline file, if the server told them.
func (a *app) printError(err error) {
	fmt.Fprintf(a.Err, "%s %s\n", a.errScreen.Paint(term.Red, "Error:"), term.Clean(err.Error()))
	var refused *client.Error
	var unreachable *client.UnreachableError
	switch {
	case errors.As(err, &refused):
		for _, d := range refused.Diagnostics {
			a.printDiagnostic(d)
		}
		if len(refused.Errors) < 2 {
			return // the message has it
		}
		for _, e := range refused.Errors {
			fmt.Fprintf(a.Err, "  %s: %s\n", term.Clean(e.Location), term.Clean(e.Message))
		}
	case errors.As(err, &unreachable):
		fmt.Fprintln(a.Err, "  Start one with: drover dev. Or name another with -address or DROVER_ADDR.")
	}
}

// printDiagnostic prints a problem of a pipeline file that the server found.
func (a *app) printDiagnostic(d pipeline.Diagnostic) {
	fmt.Fprintf(a.Err, "\n%s: %s\n", strings.ToUpper(d.Severity[:1])+d.Severity[1:], term.Clean(d.Summary))
	if d.Start != nil {
		fmt.Fprintf(a.Err, "\n  on %s line %d, column %d:\n", term.Clean(d.File), d.Start.Line, d.Start.Column)
		if d.Snippet != "" {
			fmt.Fprintf(a.Err, "  %4d: %s\n", d.Start.Line, term.Clean(d.Snippet))
		}
	}
	if d.Detail != "" {
		fmt.Fprintf(a.Err, "\n%s\n", term.Clean(d.Detail))
	}
}

// phaseColor is the colour of a phase.
func phaseColor(p run.Phase) term.Color {
	switch p {
	case run.Succeeded:
		return term.Green
	case run.Failed:
		return term.Red
	case run.Running:
		return term.Cyan
	case run.Queued:
		return term.Yellow
	default:
		return term.Dim
	}
}

// duration writes how long something took, in two units at most.
func duration(d time.Duration) string {
	switch {
	case d < 50*time.Millisecond:
		return "" // nothing to tell
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// between is how long something took that may not have ended, or begun.
func between(start, end *time.Time, now time.Time) string {
	switch {
	case start == nil:
		return ""
	case end == nil:
		return duration(max(now.Sub(*start), 0))
	default:
		return duration(max(end.Sub(*start), 0))
	}
}

// ago writes how long ago something was.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours())/24)
	}
}

// number writes a metric or a numeric parameter, in few digits.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e9 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', 5, 64)
}

// value writes a parameter.
func value(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return x
	case float64:
		return number(x)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	}
}

// bytesOf writes a size.
func bytesOf(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 4 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

// shortDigest is enough of a digest to recognize it.
func shortDigest(d string) string {
	hexadecimal := strings.TrimPrefix(d, "sha256:")
	return hexadecimal[:min(len(hexadecimal), 12)]
}
