package client_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"time"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/apitest"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Submit a pipeline and follow it to its end.
func Example() {
	world := &apitest.World{Stages: map[string][]run.Run{"greet": {
		{Phase: run.Running}, {Phase: run.Running}, {Phase: run.Succeeded},
	}}}
	server := httptest.NewServer(api.New(api.Config{Runs: world, History: world}))
	defer server.Close()

	ctx := context.Background()
	c, err := client.New(client.Config{Address: server.URL})
	if err != nil {
		log.Fatal(err)
	}
	r, _, err := c.Submit(ctx, run.Submission{
		Key:      "greeting-2026-03-01", // sent again, it is the same run
		Filename: "pipeline.hcl",
		Source:   "pipeline \"greet\" {}\nstep \"hello\" { command = [\"echo\", \"hello\"] }\n",
	})
	if err != nil {
		log.Fatal(err)
	}
	for last := int64(0); !r.Phase.Ended(); {
		events, err := c.Events(ctx, r.ID, last, 30*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		if n := len(events); n > 0 {
			last = events[n-1].Seq
		}
		if r, err = c.Run(ctx, r.ID); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(r.Pipeline, r.Phase)
	// Output: greet succeeded
}
