package simulated_test

import (
	"context"
	"fmt"
	"time"

	"github.com/drover-ml/drover/device-plugin/simulated"
)

// A server of which one board is broken.
func ExampleNew() {
	m, err := simulated.Load("dgx-h100")
	if err != nil {
		panic(err)
	}
	m.Node = "node-1"
	script, err := simulated.ParseScript("faults.hcl", []byte(`fault "3" { reason = "Xid 79: GPU has fallen off the bus" }`))
	if err != nil {
		panic(err)
	}
	src := simulated.New(simulated.Config{Machine: m, Script: script})
	defer src.Close()
	inv, err := src.Inventory(context.Background())
	if err != nil {
		panic(err)
	}
	for _, b := range inv.Boards[2:5] {
		fmt.Printf("%d %s %s %q\n", b.Index, b.Product, b.PCIBusID, b.Fault)
	}
	// Output:
	// 2 NVIDIA H100 80GB HBM3 00000000:52:00.0 ""
	// 3 NVIDIA H100 80GB HBM3 00000000:61:00.0 "Xid 79: GPU has fallen off the bus"
	// 4 NVIDIA H100 80GB HBM3 00000000:9D:00.0 ""
}

func ExampleScript_Timeline() {
	s, err := simulated.ParseScript("faults.hcl", []byte(`
fault "3" {
  at   = "30s"
  xid  = 79
  lost = true
}
reset "3" { at = "90s" }
`))
	if err != nil {
		panic(err)
	}
	moments, more := s.Timeline(time.Minute)
	for _, m := range moments {
		fmt.Println(m.At, m.Device, m.What)
	}
	fmt.Println("more after a minute:", more)
	// Output:
	// 30s 3 Xid 79, lost
	// more after a minute: true
}
