package driver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
)

// A handle comes from an agent's disk: whatever it holds, decoding it and
// encoding it again changes nothing more.
func FuzzHandle(f *testing.F) {
	b, err := proto.Marshal(handleMessage(&Handle{
		Version: 1, State: StateRunning, DriverState: []byte("s"),
		Config: &TaskConfig{ID: "a/t/1", Network: &NetworkIsolation{Hosts: &Hosts{}}, DNS: &DNS{}, Mounts: []Mount{{}}, Devices: []Device{{}}},
	}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		var m driverpb.TaskHandle
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		h := handleOf(&m)
		if diff := cmp.Diff(h, handleOf(handleMessage(h))); diff != "" {
			t.Error(diff)
		}
	})
}

// What a driver reports is not to be trusted either.
func FuzzReports(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var inspect driverpb.InspectTaskResponse
		if proto.Unmarshal(data, &inspect) == nil {
			statusOf(&inspect)
		}
		var stats driverpb.TaskStats
		if proto.Unmarshal(data, &stats) == nil {
			_, _ = statsOf(&stats)
		}
		var print driverpb.FingerprintResponse
		if proto.Unmarshal(data, &print) == nil {
			_, _ = fingerprintOf(&print)
		}
		var event driverpb.DriverTaskEvent
		if proto.Unmarshal(data, &event) == nil {
			eventOf(&event)
		}
	})
}
