package device

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/devicepb"
)

// What a plugin sends is not to be trusted: whatever decodes is either refused
// or would be accepted again.
func FuzzFingerprint(f *testing.F) {
	seed := []Group{{Vendor: "v", Type: "t", Name: "n", Devices: []Device{{ID: "a", PCIBusID: "b"}},
		Attributes: map[string]Attribute{"x": {Value: int64(1), Unit: "MiB"}}}}
	ms, err := groupMessages(seed)
	if err != nil {
		f.Fatal(err)
	}
	b, err := proto.Marshal(&devicepb.FingerprintResponse{DeviceGroup: ms})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		var m devicepb.FingerprintResponse
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		groups, err := groupsOf(m.GetDeviceGroup())
		if err != nil {
			return
		}
		if err := ValidateGroups(groups); err != nil {
			t.Errorf("accepted, then refused: %v", err)
		}
	})
}

func FuzzStats(f *testing.F) {
	n := int64(1)
	ms, err := statsMessages([]GroupStats{{Vendor: "v", Instances: map[string]InstanceStats{
		"a": {Summary: &Stat{Int: &n}, Nested: map[string]map[string]Stat{"x": {"y": {Int: &n}}}},
	}}}, time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	b, err := proto.Marshal(&devicepb.StatsResponse{Groups: ms})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		var m devicepb.StatsResponse
		if proto.Unmarshal(data, &m) == nil {
			statsOf(m.GetGroups())
		}
	})
}
