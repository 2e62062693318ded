package mig_test

import (
	"fmt"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// The order does not matter: the 4g slice gets the one place that it has, and
// the 3g slice the other half of the board.
func ExampleModel_Place() {
	model, _ := mig.ModelOf("NVIDIA A100-SXM4-40GB")
	placed, err := model.Place([]string{"3g.20gb", "4g.20gb"}, 0)
	if err != nil {
		panic(err)
	}
	for _, p := range placed {
		fmt.Printf("%s at %d:%d\n", p.Profile.Name, p.Start, p.Size)
	}
	_, err = model.Place([]string{"3g.20gb"}, mig.SlotSet(0, 1, 5))
	fmt.Println(err)
	// Output:
	// 3g.20gb at 4:4
	// 4g.20gb at 0:4
	// 3g.20gb needs slots 0-3 or 4-7; slots 0, 1 and 5 are taken
}

func ExampleNewPlan() {
	board := mig.Board{ID: "GPU-0", Product: "NVIDIA A100-SXM4-40GB", Enabled: true, Pending: true, Instances: []mig.Instance{
		{GPUInstance: 1, Profile: "3g.20gb", Placement: mig.Placement{Start: 4, Size: 4}, Compute: []int{3}},
		{GPUInstance: 2, Profile: "1g.5gb", Placement: mig.Placement{Start: 0, Size: 1}, Compute: []int{1}},
	}}
	model, _ := board.Model()
	layout, err := mig.NewLayout(model, []string{"3g.20gb", "4g.20gb"})
	if err != nil {
		panic(err)
	}
	plan, err := mig.NewPlan(board, layout)
	if err != nil {
		panic(err)
	}
	for _, step := range plan.Steps {
		fmt.Println(step)
	}
	// Output:
	// destroy 1g.5gb at 0:1
	// create 4g.20gb at 0:4
}
