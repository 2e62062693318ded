package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/registry"
)

func (a *app) endpointsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "endpoints",
		Short: "List, show and delete endpoints",
		Args:  exactArgs(),
	}
	list := a.endpointsListCmd()
	cmd.RunE = list.RunE // drover endpoints lists
	cmd.Flags().AddFlagSet(list.Flags())
	cmd.AddCommand(list, a.endpointsShowCmd(), a.endpointsDeleteCmd())
	return cmd
}

func (a *app) endpointsListCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List endpoints",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			endpoints, err := c.Endpoints(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(notNil(endpoints))
			}
			if len(endpoints) == 0 {
				a.screen.Printf("No endpoints. A pipeline's endpoint block deploys one.\n")
				return nil
			}
			t := term.NewTable("ENDPOINT", "STATUS", "MODEL", "REVISION", "RUN", "UPDATED", "REASON")
			for _, e := range endpoints {
				t.Row(e.Name, a.endpointStatus(e), servedModel(e), versionlessNumber(e.Revision), e.Run, show.Ago(e.Updated, a.Now()), term.Clean(show.FirstLine(e.Reason)))
			}
			a.screen.Print(t)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) endpointStatus(e registry.Endpoint) string {
	color := term.Yellow
	switch e.Status {
	case registry.Live:
		color = term.Green
	case registry.Broken:
		color = term.Red
	}
	return a.screen.Paint(color, string(e.Status))
}

func servedModel(e registry.Endpoint) string {
	if e.Version == 0 {
		return e.Model
	}
	return fmt.Sprintf("%s v%d", e.Model, e.Version)
}

func versionlessNumber(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (a *app) endpointsShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show ENDPOINT",
		Short:             "Show an endpoint",
		Args:              exactArgs("ENDPOINT"),
		ValidArgsFunction: a.completeEndpoint,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			e, err := c.Endpoint(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(e)
			}
			a.screen.Fields(
				"Endpoint", e.Name,
				"Status", a.endpointStatus(e),
				"Model", servedModel(e),
				"Revision", versionlessNumber(e.Revision),
				"Pending", versionlessNumber(e.Pending),
				"Reason", term.Clean(e.Reason),
				"Run", e.Run,
				"Nomad job", e.JobID,
				"Nomad service", e.Service,
				"Updated", show.Stamp(&e.Updated),
				"URL", a.gatewayURL()+"/v2/models/"+url.PathEscape(e.Name)+"/infer",
			)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) endpointsDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "delete ENDPOINT",
		Short:             "Stop an endpoint's instances and forget it",
		Args:              exactArgs("ENDPOINT"),
		ValidArgsFunction: a.completeEndpoint,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.DeleteEndpoint(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.screen.Printf("Endpoint %s is deleted. Its model's versions stay.\n", args[0])
			return nil
		},
	}
}

// DefaultGateway is where the gateway of this machine's drover dev is.
const DefaultGateway = "http://127.0.0.1:4681"

func (a *app) gatewayURL() string {
	return strings.TrimSuffix(first(a.Getenv("DROVER_GATEWAY"), DefaultGateway), "/")
}

// Limits of predict, in bytes.
const (
	maxPredictInput  = 64 << 20
	maxPredictOutput = 256 << 20
)

func (a *app) predictCmd() *cobra.Command {
	var opts struct {
		input, path string
		timeout     time.Duration
	}
	cmd := &cobra.Command{
		Use:   "predict ENDPOINT",
		Short: "Send an endpoint a request through the gateway",
		Long: `Send an endpoint a request through the gateway and print its answer as it comes.

The input is JSON. As an Open Inference Protocol request, an object with
"inputs", it goes to /v2/models/ENDPOINT/infer; anything else, or with -path, to
that path of the endpoint itself.`,
		Example: `  drover predict digits -input request.json
  echo '{"instances": [[0, 0, 5]]}' | drover predict digits -input - -path /predict`,
		Args:              exactArgs("ENDPOINT"),
		ValidArgsFunction: a.completeEndpoint,
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := a.predictInput(opts.input)
			if err != nil {
				return err
			}
			target, err := a.predictTarget(args[0], opts.path, body)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), opts.timeout)
			defer cancel()
			answer, err := a.predict(ctx, args[0], target, body)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Out, "%s\n", bytes.TrimRight(answer, "\n"))
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.input, "input", "-", "`FILE` with the request, - for standard input")
	flags.StringVar(&opts.path, "path", "", "`PATH` of the endpoint to send it to, such as /predict")
	flags.DurationVar(&opts.timeout, "timeout", time.Minute, "How long to wait for the answer, and until the endpoint is ready, as a `DURATION`")
	return cmd
}

// predict sends a request and returns the answer. While the endpoint is not
// ready it waits, as the gateway asks for, until ctx ends.
func (a *app) predict(ctx context.Context, endpoint, target string, body []byte) ([]byte, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
		if err != nil {
			return nil, usagef("gateway address: %s", err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Drover-Workspace", a.workspaceName())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, fmt.Errorf("calling the gateway (DROVER_GATEWAY names another): %w", err)
		}
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxPredictOutput))
		resp.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the answer of endpoint %s: %w", endpoint, err)
		}
		if resp.StatusCode < 300 {
			return answer, nil
		}
		refusal := fmt.Errorf("endpoint %s answered %s: %s", endpoint, resp.Status, answerDetail(answer))
		if !a.worthWaiting(ctx, endpoint, resp) {
			return nil, refusal
		}
		select {
		case <-time.After(predictPause):
		case <-ctx.Done():
			return nil, refusal
		}
	}
}

// predictPause is how long predict waits for an endpoint that is not ready.
const predictPause = 500 * time.Millisecond

// worthWaiting reports whether an endpoint that refused may serve soon: the
// gateway says so, or it has yet to hear of an endpoint that the server says is
// live.
func (a *app) worthWaiting(ctx context.Context, endpoint string, resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusServiceUnavailable:
		return resp.Header.Get("Retry-After") != ""
	case http.StatusNotFound:
		c, err := a.client()
		if err != nil {
			return false
		}
		if _, err := c.Health(ctx); err != nil {
			return false
		}
		e, err := c.Endpoint(ctx, endpoint)
		return err == nil && e.Status == registry.Live
	default:
		return false
	}
}

func (a *app) predictInput(name string) ([]byte, error) {
	in := a.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("reading the input: %w", err)
		}
		defer f.Close()
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, maxPredictInput+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the input: %w", err)
	case len(body) > maxPredictInput:
		return nil, fmt.Errorf("the input is larger than %s", show.Bytes(maxPredictInput))
	case !json.Valid(body):
		return nil, fmt.Errorf("the input %s is not JSON", name)
	}
	return body, nil
}

func (a *app) predictTarget(endpoint, path string, body []byte) (string, error) {
	base := a.gatewayURL()
	if path != "" {
		if !strings.HasPrefix(path, "/") {
			return "", usagef("-path %q: it begins with /", path)
		}
		return base + "/endpoints/" + url.PathEscape(a.workspaceName()) + "/" + url.PathEscape(endpoint) + path, nil
	}
	var oip struct {
		Inputs json.RawMessage `json:"inputs"`
	}
	if json.Unmarshal(body, &oip) != nil || oip.Inputs == nil {
		return "", usagef(`the input is no Open Inference Protocol request (an object with "inputs"): name the endpoint's own path with -path`)
	}
	return base + "/v2/models/" + url.PathEscape(endpoint) + "/infer", nil
}

// answerDetail is what an endpoint or the gateway says went wrong.
func answerDetail(answer []byte) string {
	var p struct {
		Detail string `json:"detail"`
		Error  string `json:"error"`
	}
	if json.Unmarshal(answer, &p) == nil && first(p.Detail, p.Error) != "" {
		return first(p.Detail, p.Error)
	}
	return term.Clean(string(answer[:min(len(answer), 500)]))
}
