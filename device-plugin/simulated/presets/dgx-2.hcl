# A DGX-2: sixteen boards on NVSwitches. Two boards and a network card share a
# PCIe switch, and two such switches hang below another.

environment {
  open_kernel_modules = false
  fabric_manager      = "580.95.05"
}

board "v100-32gb" {
  count = 16
  pci_bus_ids = [
    "00000000:34:00.0", "00000000:36:00.0", "00000000:39:00.0", "00000000:3B:00.0",
    "00000000:57:00.0", "00000000:59:00.0", "00000000:5C:00.0", "00000000:5E:00.0",
    "00000000:B7:00.0", "00000000:B9:00.0", "00000000:BC:00.0", "00000000:BE:00.0",
    "00000000:E0:00.0", "00000000:E2:00.0", "00000000:E5:00.0", "00000000:E7:00.0",
  ]
}

nvlink {
  boards = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
}

numa "0" {
  cpus   = "0-23,48-71"
  boards = [0, 1, 2, 3, 4, 5, 6, 7]
  nics   = ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]
}

numa "1" {
  cpus   = "24-47,72-95"
  boards = [8, 9, 10, 11, 12, 13, 14, 15]
  nics   = ["mlx5_4", "mlx5_5", "mlx5_6", "mlx5_7"]
}

switch {
  boards  = [0, 1]
  nics    = ["mlx5_0"]
  between = "PIX"
}
switch {
  boards  = [2, 3]
  nics    = ["mlx5_1"]
  between = "PIX"
}
switch {
  boards  = [4, 5]
  nics    = ["mlx5_2"]
  between = "PIX"
}
switch {
  boards  = [6, 7]
  nics    = ["mlx5_3"]
  between = "PIX"
}
switch {
  boards  = [8, 9]
  nics    = ["mlx5_4"]
  between = "PIX"
}
switch {
  boards  = [10, 11]
  nics    = ["mlx5_5"]
  between = "PIX"
}
switch {
  boards  = [12, 13]
  nics    = ["mlx5_6"]
  between = "PIX"
}
switch {
  boards  = [14, 15]
  nics    = ["mlx5_7"]
  between = "PIX"
}

switch {
  boards = [0, 1, 2, 3]
  nics   = ["mlx5_0", "mlx5_1"]
}
switch {
  boards = [4, 5, 6, 7]
  nics   = ["mlx5_2", "mlx5_3"]
}
switch {
  boards = [8, 9, 10, 11]
  nics   = ["mlx5_4", "mlx5_5"]
}
switch {
  boards = [12, 13, 14, 15]
  nics   = ["mlx5_6", "mlx5_7"]
}

nic "mlx5_0" {
  netdev     = "ib0"
  pci_bus_id = "0000:35:00.0"
}
nic "mlx5_1" {
  netdev     = "ib1"
  pci_bus_id = "0000:3a:00.0"
}
nic "mlx5_2" {
  netdev     = "ib2"
  pci_bus_id = "0000:58:00.0"
}
nic "mlx5_3" {
  netdev     = "ib3"
  pci_bus_id = "0000:5d:00.0"
}
nic "mlx5_4" {
  netdev     = "ib4"
  pci_bus_id = "0000:b8:00.0"
}
nic "mlx5_5" {
  netdev     = "ib5"
  pci_bus_id = "0000:bd:00.0"
}
nic "mlx5_6" {
  netdev     = "ib6"
  pci_bus_id = "0000:e1:00.0"
}
nic "mlx5_7" {
  netdev     = "ib7"
  pci_bus_id = "0000:e6:00.0"
}
