# A compute tray of a GB200 NVL72: two Grace CPUs with two boards each. The
# boards reach those of the other trays too, which are other nodes.

environment {
  open_kernel_modules = true
  fabric_manager      = "580.95.05"
}

board "gb200" {
  count       = 4
  pci_bus_ids = ["00000008:01:00.0", "00000009:01:00.0", "00000018:01:00.0", "00000019:01:00.0"]
}

nvlink {
  boards = [0, 1, 2, 3]
}

numa "0" {
  cpus   = "0-71"
  boards = [0, 1]
  nics   = ["mlx5_0", "mlx5_1"]
}

numa "1" {
  cpus   = "72-143"
  boards = [2, 3]
  nics   = ["mlx5_2", "mlx5_3"]
}

nic "mlx5_0" {
  netdev     = "ibp0s0"
  pci_bus_id = "0000:03:00.0"
}
nic "mlx5_1" {
  netdev     = "ibp1s0"
  pci_bus_id = "0002:03:00.0"
}
nic "mlx5_2" {
  netdev     = "ibp2s0"
  pci_bus_id = "0010:03:00.0"
}
nic "mlx5_3" {
  netdev     = "ibp3s0"
  pci_bus_id = "0012:03:00.0"
}
