package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/run"
)

func (a *app) runCmd() *cobra.Command {
	var vars variables
	var opts struct {
		detach, noCache, asJSON bool
		key                     string
	}
	cmd := &cobra.Command{
		Use:   "run PIPELINE",
		Short: "Run a pipeline and follow it",
		Long: `Run a pipeline and follow it until it has ended.

The files and folders that the pipeline names are uploaded first, only as far
as the server lacks them. Ctrl-C detaches: the run goes on. The exit code is 0
if the run succeeded and 1 if it did not.`,
		Example: "  drover run examples/digits/pipeline.hcl\n  drover run -var epochs=3 -detach pipeline.hcl",
		Args:    exactArgs("PIPELINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, err := a.load(args[0], vars)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			health, err := c.Health(ctx)
			if err != nil {
				return err
			}
			sub, err := a.upload(ctx, c, f, opts.asJSON)
			if err != nil {
				return err
			}
			sub.Key, sub.NoCache = first(opts.key, rand.Text()), opts.noCache
			r, created, err := c.Submit(ctx, sub)
			if err != nil {
				return err
			}
			if opts.asJSON && opts.detach {
				return a.printJSON(r)
			}
			if !opts.asJSON {
				a.submitted(r, created)
			}
			if opts.detach {
				return nil
			}
			return a.watch(ctx, c, r, health.Gateway, opts.asJSON)
		},
	}
	vars.flags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&opts.detach, "detach", false, "Return once the run is submitted")
	flags.BoolVar(&opts.noCache, "no-cache", false, "Run every step, also those whose result is known")
	flags.StringVar(&opts.key, "key", "", "Submit under a `KEY`: a second submission with it is the same run")
	flags.BoolVar(&opts.asJSON, "json", false, "Print JSON")
	return cmd
}

// submitted says that a run has begun.
func (a *app) submitted(r run.Run, created bool) {
	verb := "submitted"
	if !created {
		verb = "was submitted before"
	}
	a.screen.Printf("Run %s of pipeline %q %s in workspace %s.\n", r.ID, r.Pipeline, verb, r.Workspace)
}

// watch follows a run to its end and says what came of it. Failures that r has
// are not told again.
func (a *app) watch(ctx context.Context, c *client.Client, r run.Run, gateway string, asJSON bool) error {
	id := r.ID
	r, err := a.await(ctx, c, r, asJSON)
	if err != nil {
		return a.detached(id, err)
	}
	if asJSON {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		a.summarize(r, gateway)
	}
	if r.Phase != run.Succeeded {
		return errReported
	}
	return nil
}

// await waits for a run's end, showing progress unless it is quiet.
func (a *app) await(ctx context.Context, c *client.Client, r run.Run, quiet bool) (run.Run, error) {
	if !quiet {
		return a.follow(ctx, c, r)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	updates := make(chan news)
	failed := make(chan error, 1)
	go func() { failed <- poll(ctx, c, r.ID, updates) }()
	for {
		select {
		case n := <-updates:
			if n.run.Phase.Ended() {
				return n.run, nil
			}
		case err := <-failed:
			return run.Run{}, err
		}
	}
}

// upload brings what the pipeline names into the server's store.
func (a *app) upload(ctx context.Context, c *client.Client, f *file, quiet bool) (run.Submission, error) {
	say := func(format string, args ...any) {
		if !quiet && a.screen.Terminal() {
			a.screen.Draw([]string{fmt.Sprintf(format, args...)})
		}
	}
	sources, err := f.scan(ctx, func(path string) { say("Reading %s", path) })
	if err != nil {
		return run.Submission{}, err
	}
	files, bytes := 0, int64(0)
	for _, p := range f.pipeline.Paths {
		var sent client.UploadProgress
		shown := time.Time{}
		s, err := c.Upload(ctx, sources[p.Path], func(u client.UploadProgress) {
			sent = u
			if now := time.Now(); now.Sub(shown) > 100*time.Millisecond {
				shown = now
				say("Uploading %s: %s of %s", p.Path, show.Bytes(u.Sent), show.Bytes(u.Bytes))
			}
		})
		if err != nil {
			return run.Submission{}, err
		}
		files, bytes = files+sent.Files, bytes+sent.Bytes
		sources[p.Path] = s
	}
	if !quiet && len(f.pipeline.Paths) > 0 {
		if files == 0 {
			a.screen.Printf("Read %s; the store has it all.\n", show.Count(len(f.pipeline.Paths), "source"))
		} else {
			a.screen.Printf("Read %s and uploaded %s, %s.\n", show.Count(len(f.pipeline.Paths), "source"), show.Count(files, "file"), show.Bytes(bytes))
		}
	}
	return f.submission(sources), nil
}

// userName is who runs and changes are by if the server does not know better.
func (a *app) userName() string {
	if name := a.Getenv("USER"); name != "" {
		return name
	}
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}
