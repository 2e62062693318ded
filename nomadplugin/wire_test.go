package nomadplugin_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/basepb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/devicepb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/hclspecpb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/structspb"
)

var update = flag.Bool("update", false, "rewrite testdata/wire.txt")

// The wire is Nomad's: names, numbers and types in testdata/wire.txt were
// compared by machine with those of Nomad 2.0.5. Only a newer Nomad changes
// them, and only by additions.
func TestWire(t *testing.T) {
	var lines []string
	for _, f := range []protoreflect.FileDescriptor{
		basepb.File_drover_nomad_base_proto, devicepb.File_drover_nomad_device_proto, driverpb.File_drover_nomad_driver_proto,
		hclspecpb.File_drover_nomad_hclspec_proto, structspb.File_drover_nomad_structs_proto,
	} {
		lines = append(lines, describe(f)...)
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/wire.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func describe(f protoreflect.FileDescriptor) []string {
	lines := append(messages(f.Messages()), enums(f.Enums())...)
	for i := range f.Services().Len() {
		s := f.Services().Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			lines = append(lines, fmt.Sprintf("rpc %s(%s%s) %s%s", m.FullName(), stream(m.IsStreamingClient()), m.Input().FullName(),
				stream(m.IsStreamingServer()), m.Output().FullName()))
		}
	}
	return lines
}

func stream(is bool) string {
	if is {
		return "stream "
	}
	return ""
}

func messages(ms protoreflect.MessageDescriptors) []string {
	var lines []string
	for i := range ms.Len() {
		m := ms.Get(i)
		lines = append(lines, fmt.Sprintf("message %s", m.FullName()))
		for j := range m.Fields().Len() {
			lines = append(lines, field(m.Fields().Get(j)))
		}
		for j := range m.ReservedRanges().Len() {
			lines = append(lines, fmt.Sprintf("reserved %s %d", m.FullName(), m.ReservedRanges().Get(j)[0]))
		}
		lines = append(lines, enums(m.Enums())...)
		lines = append(lines, messages(m.Messages())...)
	}
	return lines
}

func field(f protoreflect.FieldDescriptor) string {
	typ := f.Kind().String()
	switch {
	case f.Message() != nil:
		typ = string(f.Message().FullName())
	case f.Enum() != nil:
		typ = string(f.Enum().FullName())
	}
	line := fmt.Sprintf("field %s = %d %s %s", f.FullName(), f.Number(), f.Cardinality(), typ)
	if f.IsPacked() {
		line += " packed"
	}
	if o := f.ContainingOneof(); o != nil {
		line += " in " + string(o.Name())
	}
	return line
}

func enums(es protoreflect.EnumDescriptors) []string {
	var lines []string
	for i := range es.Len() {
		e := es.Get(i)
		for j := range e.Values().Len() {
			v := e.Values().Get(j)
			lines = append(lines, fmt.Sprintf("enum %s %s = %d", e.FullName(), v.Name(), v.Number()))
		}
	}
	return lines
}
