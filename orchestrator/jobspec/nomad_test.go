package jobspec_test

import (
	"os"
	"testing"

	"github.com/hashicorp/nomad/api"
)

// Real Nomad finds nothing wrong with the jobs. It runs where NOMAD_ADDR names
// an agent.
func TestNomadAcceptsTheJobs(t *testing.T) {
	if os.Getenv("NOMAD_ADDR") == "" {
		t.Skip("NOMAD_ADDR is not set: no Nomad to ask")
	}
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for name, job := range compiled(t) {
		t.Run(name, func(t *testing.T) {
			// the test agent has one region, namespace and pool
			job.Region, job.Namespace, job.NodePool = nil, nil, nil
			result, _, err := client.Jobs().Validate(job, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(result.ValidationErrors) > 0 || result.Error != "" || result.Warnings != "" {
				t.Errorf("errors %v %s, warnings %s", result.ValidationErrors, result.Error, result.Warnings)
			}
			if _, _, err := client.Jobs().Plan(job, true, nil); err != nil {
				t.Errorf("planning: %v", err)
			}
		})
	}
}
