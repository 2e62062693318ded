package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func (a *app) validateCmd() *cobra.Command {
	var vars variables
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "validate PIPELINE",
		Short: "Check a pipeline file, without a server",
		Long: `Check a pipeline file and everything it names, without a server.

Every problem is shown at once, with its place and what to do about it.
PIPELINE is a file, or a folder with a pipeline.hcl.`,
		Example: "  drover validate examples/digits/pipeline.hcl\n  drover validate -var epochs=3 -json pipeline.hcl",
		Args:    exactArgs("PIPELINE"),
		RunE: func(_ *cobra.Command, args []string) error {
			// This process lives for one file: memory is cheaper than a third of
			// the time.
			if a.Getenv("GOGC") == "" {
				debug.SetGCPercent(400)
			}
			f, diags, err := readFile(args[0], vars)
			if err != nil {
				return err
			}
			if asJSON {
				out := validation{Valid: f.pipeline != nil, Diagnostics: diagnosticsOf(f, diags)}
				if err := a.printJSON(out); err != nil {
					return err
				}
			} else {
				a.printDiagnostics(f, diags)
			}
			if f.pipeline == nil {
				return errReported
			}
			if !asJSON {
				fmt.Fprintf(a.Out, "%s: pipeline %q is valid: %s.\n", f.name, f.pipeline.Name, kindCounts(f.pipeline))
			}
			return nil
		},
	}
	vars.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// validation is what validate -json prints.
type validation struct {
	Valid       bool                  `json:"valid"`
	Diagnostics []pipeline.Diagnostic `json:"diagnostics"`
}

// kindCounts says how many nodes of each kind a pipeline has.
func kindCounts(p *pipeline.Pipeline) string {
	counts := map[pipeline.Kind]int{}
	for _, n := range p.Nodes {
		counts[n.Kind]++
	}
	text := ""
	for _, k := range []pipeline.Kind{
		pipeline.KindDataset, pipeline.KindStep, pipeline.KindSweep, pipeline.KindGate, pipeline.KindModel, pipeline.KindEndpoint,
	} {
		if counts[k] == 0 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += show.Count(counts[k], string(k))
	}
	return text
}
