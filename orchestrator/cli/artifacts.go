package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

func (a *app) artifactsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "artifacts",
		Short: "List, show, download and verify what runs read and left",
		Long: `List, show, download and verify what runs read and left.

An artefact is named by its digest, or by the run, step and output that it came
from: drover artifacts get d227rea941ch step.train model`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.artifactsListCmd(), a.artifactsShowCmd(), a.artifactsGetCmd(), a.artifactsVerifyCmd())
	return cmd
}

// listed is a row of artifacts list.
type listed struct {
	Step string `json:"step"`
	Use  string `json:"use"` // input or output
	Name string `json:"name"`
	run.Output
}

func (a *app) artifactsListCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "list RUN [STEP]",
		Short:             "List what a run read and left",
		Args:              rangeArgs(1, "RUN", "STEP"),
		ValidArgsFunction: a.completeRunAndNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			r, err := c.Run(cmd.Context(), run.ID(args[0]))
			if err != nil {
				return err
			}
			nodes := r.Nodes
			if len(args) == 2 {
				n, err := nodeOf(r, args[1])
				if err != nil {
					return err
				}
				nodes = []run.Node{*n}
			}
			rows := artifactsOf(nodes)
			if asJSON {
				return a.printJSON(rows)
			}
			if len(rows) == 0 {
				a.screen.Printf("No artefacts yet.\n")
				return nil
			}
			t := term.NewTable("STEP", "USE", "NAME", "DIGEST", "KIND", "SIZE")
			for _, r := range rows {
				size := ""
				if r.Use == "output" {
					size = show.Bytes(r.Bytes)
				}
				t.Row(r.Step, r.Use, r.Name, r.Digest, r.Kind, size)
			}
			a.screen.Print(t)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func artifactsOf(nodes []run.Node) []listed {
	rows := []listed{}
	for i := range nodes {
		n := &nodes[i]
		for _, name := range slices.Sorted(maps.Keys(n.Inputs)) {
			rows = append(rows, listed{string(n.ID), "input", name, run.Output{Digest: n.Inputs[name]}})
		}
		for _, name := range slices.Sorted(maps.Keys(n.Outputs)) {
			rows = append(rows, listed{string(n.ID), "output", name, n.Outputs[name]})
		}
		for _, t := range n.Trials {
			for _, name := range slices.Sorted(maps.Keys(t.Outputs)) {
				rows = append(rows, listed{show.TaskName(n.ID, &t.Index), "output", name, t.Outputs[name]})
			}
		}
	}
	return rows
}

// artifactArgs takes a digest, or a run, step and output.
func artifactArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 1 || len(args) == 3 {
		return nil
	}
	return usagef("%s needs a DIGEST, or RUN STEP OUTPUT (usage: drover %s)", cmd.CommandPath(), usageLine(cmd))
}

// artifactOf finds the digest that the arguments name.
func artifactOf(ctx context.Context, c *client.Client, args []string) (string, error) {
	if len(args) == 1 {
		d, err := artifact.ParseDigest(args[0])
		if err != nil {
			return "", usagef("%q is no digest (%s); drover artifacts list RUN shows them", args[0], err)
		}
		return string(d), nil
	}
	n, err := findNode(ctx, c, run.ID(args[0]), args[1])
	if err != nil {
		return "", err
	}
	o, ok := n.Outputs[args[2]]
	if !ok {
		return "", fmt.Errorf("%s of run %s has no output %q stored; it has %s", n.ID, args[0], args[2],
			first(strings.Join(slices.Sorted(maps.Keys(n.Outputs)), ", "), "none"))
	}
	return o.Digest, nil
}

func (a *app) artifactsShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show DIGEST | RUN STEP OUTPUT",
		Short:             "Show an artefact's files, where it comes from and what used it",
		Args:              artifactArgs,
		ValidArgsFunction: a.completeRunAndNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			digest, err := artifactOf(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			stored, err := c.Artifact(cmd.Context(), digest)
			if err != nil {
				return err
			}
			origin, err := c.Lineage(cmd.Context(), digest)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(shownArtifact{stored, origin})
			}
			a.printArtifact(stored, origin)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// shownArtifact is what artifacts show -json prints.
type shownArtifact struct {
	api.Artifact
	Lineage run.Lineage `json:"lineage"`
}

func (a *app) printArtifact(stored api.Artifact, origin run.Lineage) {
	fields := []string{
		"Digest", stored.Digest,
		"Kind", stored.Kind,
		"Size", fmt.Sprintf("%s in %s", show.Bytes(stored.Bytes), show.Count(stored.FileCount, "file")),
	}
	add := func(name string, uses []run.Use) {
		for _, u := range uses {
			if u.Kind != pipeline.KindModel { // it has its step's output
				fields = append(fields, name, useOf(u))
			}
		}
	}
	add("Produced by", origin.Produced)
	add("Made from", origin.Ancestors)
	add("Used by", origin.Consumed)
	for _, v := range origin.Versions {
		fields = append(fields, "Model", fmt.Sprintf("%s version %d", v.Model, v.Number))
	}
	a.screen.Fields(fields...)
	a.screen.Printf("\n")
	t := term.NewTable("PATH", "SIZE", "DIGEST")
	for _, f := range stored.Files {
		if f.Link != "" {
			t.Row(term.Clean(f.Path), "", "-> "+term.Clean(f.Link))
			continue
		}
		t.Row(term.Clean(f.Path), show.Bytes(f.Bytes), show.Digest(f.Digest))
	}
	a.screen.Print(t)
}

func useOf(u run.Use) string {
	text := fmt.Sprintf("%s of run %s, as %s", show.TaskName(u.Node, u.Trial), u.Run, u.Name)
	if u.Cached != "" {
		text += fmt.Sprintf(" (taken over from run %s)", u.Cached)
	}
	return text
}

func (a *app) artifactsGetCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "get DIGEST | RUN STEP OUTPUT",
		Short: "Download an artefact",
		Long: `Download an artefact to a new file or folder, which appears when all of it is
there and verified.`,
		Example:           "  drover artifacts get d227rea941ch step.train model -out model",
		Args:              artifactArgs,
		ValidArgsFunction: a.completeRunAndNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			digest, err := artifactOf(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			dest := out
			switch {
			case dest != "":
			case len(args) == 3:
				dest = args[2]
			default:
				dest = show.Digest(digest)
			}
			m, err := c.Download(cmd.Context(), digest, dest)
			if err != nil {
				return err
			}
			a.screen.Printf("%s: %s in %s, verified.\n", dest, show.Bytes(m.Bytes()), show.Count(len(m.Files), "file"))
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`PATH` to write, which must not exist. Default: the output's name")
	return cmd
}

func (a *app) artifactsVerifyCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "verify DIGEST | RUN STEP OUTPUT",
		Short:             "Have the store read an artefact and compare it with its digests",
		Args:              artifactArgs,
		ValidArgsFunction: a.completeRunAndNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			digest, err := artifactOf(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			v, err := c.VerifyArtifact(cmd.Context(), digest)
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				if err := a.printJSON(v); err != nil {
					return err
				}
			case v.Intact:
				a.screen.Printf("%s is intact.\n", digest)
			default:
				a.screen.Printf("%s is NOT intact: %s\n", digest, term.Clean(v.Reason))
			}
			if !v.Intact {
				return errReported
			}
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
