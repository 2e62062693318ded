# A DGX H100, H200 or B200: eight boards on NVSwitches, each with a network card
# of its own behind the same PCIe switch, and two cards with two ports each for
# storage.

environment {
  open_kernel_modules = true
  fabric_manager      = "580.95.05"
}

board "h100" {
  count = 8
  pci_bus_ids = [
    "00000000:1B:00.0", "00000000:43:00.0", "00000000:52:00.0", "00000000:61:00.0",
    "00000000:9D:00.0", "00000000:C3:00.0", "00000000:D1:00.0", "00000000:DF:00.0",
  ]
}

nvlink {
  boards = [0, 1, 2, 3, 4, 5, 6, 7]
}

numa "0" {
  cpus   = "0-55,112-167"
  boards = [0, 1, 2, 3]
  nics   = ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3", "mlx5_4", "mlx5_5"]
}

numa "1" {
  cpus   = "56-111,168-223"
  boards = [4, 5, 6, 7]
  nics   = ["mlx5_6", "mlx5_7", "mlx5_8", "mlx5_9", "mlx5_10", "mlx5_11"]
}

switch {
  boards = [0]
  nics   = ["mlx5_0"]
}
switch {
  boards = [1]
  nics   = ["mlx5_3"]
}
switch {
  boards = [2]
  nics   = ["mlx5_4"]
}
switch {
  boards = [3]
  nics   = ["mlx5_5"]
}
switch {
  boards = [4]
  nics   = ["mlx5_6"]
}
switch {
  boards = [5]
  nics   = ["mlx5_9"]
}
switch {
  boards = [6]
  nics   = ["mlx5_10"]
}
switch {
  boards = [7]
  nics   = ["mlx5_11"]
}

nic "mlx5_0" {
  netdev     = "ibp24s0"
  pci_bus_id = "0000:18:00.0"
}
nic "mlx5_1" {
  netdev     = "enp41s0f0np0"
  pci_bus_id = "0000:29:00.0"
}
nic "mlx5_2" {
  netdev     = "enp41s0f1np1"
  pci_bus_id = "0000:29:00.1"
}
nic "mlx5_3" {
  netdev     = "ibp64s0"
  pci_bus_id = "0000:40:00.0"
}
nic "mlx5_4" {
  netdev     = "ibp79s0"
  pci_bus_id = "0000:4f:00.0"
}
nic "mlx5_5" {
  netdev     = "ibp94s0"
  pci_bus_id = "0000:5e:00.0"
}
nic "mlx5_6" {
  netdev     = "ibp154s0"
  pci_bus_id = "0000:9a:00.0"
}
nic "mlx5_7" {
  netdev     = "enp170s0f0np0"
  pci_bus_id = "0000:aa:00.0"
}
nic "mlx5_8" {
  netdev     = "enp170s0f1np1"
  pci_bus_id = "0000:aa:00.1"
}
nic "mlx5_9" {
  netdev     = "ibp192s0"
  pci_bus_id = "0000:c0:00.0"
}
nic "mlx5_10" {
  netdev     = "ibp206s0"
  pci_bus_id = "0000:ce:00.0"
}
nic "mlx5_11" {
  netdev     = "ibp220s0"
  pci_bus_id = "0000:dc:00.0"
}
