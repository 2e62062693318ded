# A server with eight PCIe cards: four behind the PCIe switch of each socket,
# neighbours joined by NVLink bridges, a network card for each socket.

board "a100-pcie-80gb" {
  count = 8
  pci_bus_ids = [
    "00000000:1B:00.0", "00000000:1C:00.0", "00000000:3D:00.0", "00000000:3E:00.0",
    "00000000:8D:00.0", "00000000:8E:00.0", "00000000:AD:00.0", "00000000:AE:00.0",
  ]
}

nvlink {
  boards = [0, 1]
}
nvlink {
  boards = [2, 3]
}
nvlink {
  boards = [4, 5]
}
nvlink {
  boards = [6, 7]
}

numa "0" {
  cpus   = "0-31,64-95"
  boards = [0, 1, 2, 3]
  nics   = ["mlx5_0"]
}

numa "1" {
  cpus   = "32-63,96-127"
  boards = [4, 5, 6, 7]
  nics   = ["mlx5_1"]
}

switch {
  boards = [0, 1, 2, 3]
  nics   = ["mlx5_0"]
}
switch {
  boards = [4, 5, 6, 7]
  nics   = ["mlx5_1"]
}

nic "mlx5_0" {
  netdev     = "ens1f0np0"
  pci_bus_id = "0000:20:00.0"
}
nic "mlx5_1" {
  netdev     = "ens2f0np0"
  pci_bus_id = "0000:91:00.0"
}
