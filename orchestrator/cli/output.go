package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
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
