package nvml

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

// everything calls all there is to call, and returns what failed.
func everything(t *testing.T, s *Source, board *nvmltest.Board) []error {
	t.Helper()
	var errs []error
	failed := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	ids := []gpu.ID{idOf(board)}
	inv, err := s.Inventory(t.Context())
	failed(err)
	for _, b := range inv.Boards {
		for _, slice := range b.Slices {
			ids = append(ids, slice.ID)
		}
	}
	for range 2 {
		_, err = s.Sample(t.Context(), ids)
		failed(err)
	}
	_, err = s.Vitals(t.Context(), ids[:1])
	failed(err)
	_, err = s.Topology(t.Context())
	failed(err)
	_, err = s.Processes(t.Context())
	failed(err)
	_, err = s.Boards(t.Context())
	failed(err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	failed(s.Watch(ctx, func(gpu.Event) {}))
	_, err = s.SetMode(t.Context(), board.UUID, true)
	failed(err)
	failed(s.Create(t.Context(), board.UUID, instanceAt("1g.10gb", 3, 1, 1)))
	failed(s.Destroy(t.Context(), board.UUID, 7))
	return errs
}

// TestEveryCallIsLookedUp is that no function of the library is called that
// was not looked up: one that is missing would end the process.
func TestEveryCallIsLookedUp(t *testing.T) {
	m := h100()
	s := sourceOf(t, m)
	cut(t, s, m.Boards[1], instanceAt("3g.40gb", 0, 4, 1))
	if errs := everything(t, s, m.Boards[0]); len(errs) > 0 {
		t.Fatal(errs)
	}
	if err := watchBriefly(t, s, m); err != nil {
		t.Fatal(err)
	}
	instance, _ := m.Boards[1].GetGpuInstanceById(1)
	slice, _ := m.Boards[1].GetMigDeviceHandleByIndex(0)
	objects := []struct {
		of       any // a mock, which counts its calls
		prefixes []string
	}{
		{&m.Boards[0].Device.Device, []string{"nvmlDevice", "nvml"}},
		{&m.Boards[1].Device.Device, []string{"nvmlDevice", "nvml"}},
		{slice, []string{"nvmlDevice", "nvml"}},
		{instance, []string{"nvmlGpuInstance"}},
		{&m.Server.Interface, []string{"nvml"}},
	}
	total := 0
	for _, o := range objects {
		for _, name := range called(o.of) {
			total++
			if !slices.ContainsFunc(o.prefixes, func(prefix string) bool { return lookedUp(m, prefix+name) }) {
				t.Errorf("%s of %T is called, and %v was not looked up", name, o.of, o.prefixes)
			}
		}
	}
	if total < 80 {
		t.Errorf("only %d functions were called", total)
	}
}

func watchBriefly(t *testing.T, s *Source, m *nvmltest.Machine) error {
	events, stop := watching(t, s, m.Boards[0])
	m.Emit(m.Boards[0], lib.EventTypeXidCriticalError, 48, nvmltest.Whole, nvmltest.Whole)
	receive(t, events)
	return stop()
}

// called are the functions of one of go-nvml's mocks that were called.
func called(object any) []string {
	var names []string
	v := reflect.ValueOf(object)
	for i := range v.NumMethod() {
		name, ok := strings.CutSuffix(v.Type().Method(i).Name, "Calls")
		if ok && v.Method(i).Type().NumIn() == 0 && v.Method(i).Call(nil)[0].Len() > 0 {
			names = append(names, name)
		}
	}
	return names
}

// lookedUp reports whether any version of a symbol was. Loading and unloading
// are go-nvml's own.
func lookedUp(m *nvmltest.Machine, symbol string) bool {
	if slices.Contains([]string{"nvmlInit", "nvmlShutdown", "nvmlExtensions", "nvmlLookupSymbol"}, symbol) {
		return true
	}
	for _, version := range []string{"", "_v2", "_v3"} {
		if m.Looked(symbol + version) {
			return true
		}
	}
	return false
}

// TestOldestLibrary is that a library with nothing but what is required does
// not end the process, whatever is asked of it.
func TestOldestLibrary(t *testing.T) {
	m := h100()
	s := sourceOf(t, m)
	cut(t, s, m.Boards[1], instanceAt("3g.40gb", 0, 4, 3))
	_ = s.Close()
	m.Only("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUUID", "nvmlDeviceGetName")
	for _, b := range m.Boards {
		panicking(&b.Device.Device, "GetUUID", "GetName")
	}
	panicking(&m.Server.Interface, "Init", "Shutdown", "Extensions", "DeviceGetCount", "DeviceGetHandleByIndex", "DeviceGetHandleByUUID")
	errs := everything(t, s, m.Boards[0])
	var text []string
	for _, err := range errs {
		text = append(text, err.Error())
	}
	if len(errs) != 3 { // SetMode, Create, Destroy
		t.Errorf("errors %q", text)
	}
	for _, message := range text {
		if !strings.Contains(message, "libnvidia-ml.so.1 lacks nvml") {
			t.Errorf("error %q", message)
		}
	}
	samples, err := s.Sample(t.Context(), []gpu.ID{idOf(m.Boards[0])})
	if v := samples[idOf(m.Boards[0])]; err != nil || v != (gpu.Sample{Time: v.Time}) {
		t.Errorf("sample %+v, %v", v, err)
	}
	if inv := inventory(t, s); len(inv.Boards) != 8 || inv.Boards[0].Fault != "" {
		t.Errorf("inventory %+v", inv)
	}
}

// panicking makes all functions of a mock panic, but for some.
func panicking(object any, except ...string) {
	v := reflect.ValueOf(object).Elem()
	for i := range v.NumField() {
		name := strings.TrimSuffix(v.Type().Field(i).Name, "Func")
		if f := v.Field(i); f.Kind() == reflect.Func && !slices.Contains(except, name) {
			f.Set(reflect.MakeFunc(f.Type(), func([]reflect.Value) []reflect.Value {
				panic(fmt.Sprintf("%s is missing, and was called", name))
			}))
		}
	}
}

// TestMissingOneByOne is that any one function may be missing: nothing panics,
// and all else is read.
func TestMissingOneByOne(t *testing.T) {
	device := reflect.TypeFor[mock.Device]()
	for i := range device.NumField() {
		name, ok := strings.CutSuffix(device.Field(i).Name, "Func")
		if !ok || slices.Contains([]string{"GetUUID", "GetName"}, name) {
			continue
		}
		m := h100()
		s := sourceOf(t, m)
		cut(t, s, m.Boards[1], instanceAt("3g.40gb", 0, 4, 3))
		_ = s.Close()
		for _, version := range []string{"", "_v2", "_v3"} {
			m.Lack("nvmlDevice"+name+version, "nvml"+name+version)
		}
		for _, b := range m.Boards {
			v := reflect.ValueOf(&b.Device.Device).Elem().FieldByName(name + "Func")
			v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value {
				panic(fmt.Sprintf("%s is missing, and was called", name))
			}))
		}
		inv, err := s.Inventory(t.Context())
		if err != nil || len(inv.Boards) != 8 {
			t.Fatalf("without %s: %d boards, %v", name, len(inv.Boards), err)
		}
		everything(t, s, m.Boards[0])
	}
}
