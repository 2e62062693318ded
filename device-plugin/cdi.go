package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tags.cncf.io/container-device-interface/specs-go"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// cdiFile is the name of the plugin's file in the folder of CDI specifications.
const cdiFile = "nomad-device-gpu.json"

// writeCDI keeps the file of CDI devices: the device files of each board and
// slice on offer, by its UUID. Container engines read it whenever they need it.
func (n *node) writeCDI(o gpu.Offer) error {
	path := filepath.Join(n.settings.cdiDir, cdiFile)
	spec := cdiSpec(o)
	if len(spec.Devices) == 0 {
		// A specification without devices is invalid.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("writing CDI devices: %w", err)
		}
		return nil
	}
	content, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("writing CDI devices: %w", err)
	}
	if err := replaceFile(path, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing CDI devices: %w; cdi_spec_dir is a folder that the plugin can write, such as /var/run/cdi", err)
	}
	return nil
}

func cdiSpec(o gpu.Offer) specs.Spec {
	spec := specs.Spec{Kind: gpu.CDIKind, Version: "0.6.0"} // the oldest that knows all that is used
	known := map[gpu.ID]bool{}
	for _, d := range o.Devices {
		if known[d.Hardware] || len(d.Nodes) == 0 {
			continue
		}
		known[d.Hardware] = true
		device := specs.Device{Name: string(d.Hardware)}
		for _, path := range d.Nodes {
			device.ContainerEdits.DeviceNodes = append(device.ContainerEdits.DeviceNodes, &specs.DeviceNode{Path: path, Permissions: "rw"})
		}
		spec.Devices = append(spec.Devices, device)
	}
	return spec
}

// replaceFile replaces a file in one step.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
