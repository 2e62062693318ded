// Package metrics shows Prometheus what the plugin knows of a node's GPUs.
//
// Whatever NVIDIA's dcgm-exporter has a name for has that name, unit and set of
// labels here, so that dashboards made for it work; the rest is called
// drover_*. The promises:
//
//   - A reading that is missing is no series. It is never zero.
//   - A reading that has become old is no series either: a dashboard shows a
//     gap, not a value that has stood still.
//   - A series belongs to the GPU whose UUID it has. Indexes are labels only.
//   - A scrape never waits for a driver: it gets what was read last.
//   - The number of series has a bound, whatever runs on the node.
package metrics
