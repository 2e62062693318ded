# A DGX A100: eight boards on NVSwitches. Each pair of boards has a NUMA node and
# two network cards; two more cards, for storage, are elsewhere.

environment {
  open_kernel_modules = true
  fabric_manager      = "580.95.05"
}

board "a100-40gb" {
  count = 8
  pci_bus_ids = [
    "00000000:07:00.0", "00000000:0F:00.0", "00000000:47:00.0", "00000000:4E:00.0",
    "00000000:87:00.0", "00000000:90:00.0", "00000000:B7:00.0", "00000000:BD:00.0",
  ]
}

nvlink {
  boards = [0, 1, 2, 3, 4, 5, 6, 7]
}

numa "3" {
  cpus   = "48-63,176-191"
  boards = [0, 1]
  nics   = ["mlx5_0", "mlx5_1"]
}

numa "1" {
  cpus   = "16-31,144-159"
  boards = [2, 3]
  nics   = ["mlx5_2", "mlx5_3"]
}

numa "7" {
  cpus   = "112-127,240-255"
  boards = [4, 5]
  nics   = ["mlx5_6", "mlx5_7"]
}

numa "5" {
  cpus   = "80-95,208-223"
  boards = [6, 7]
  nics   = ["mlx5_8", "mlx5_9"]
}

numa "2" {
  cpus = "32-47,160-175"
  nics = ["mlx5_4", "mlx5_5"]
}

numa "6" {
  cpus = "96-111,224-239"
  nics = ["mlx5_10", "mlx5_11"]
}

switch {
  boards = [0, 1]
  nics   = ["mlx5_0", "mlx5_1"]
}
switch {
  boards = [2, 3]
  nics   = ["mlx5_2", "mlx5_3"]
}
switch {
  boards = [4, 5]
  nics   = ["mlx5_6", "mlx5_7"]
}
switch {
  boards = [6, 7]
  nics   = ["mlx5_8", "mlx5_9"]
}

nic "mlx5_0" {
  netdev     = "ibp12s0"
  pci_bus_id = "0000:0c:00.0"
}
nic "mlx5_1" {
  netdev     = "ibp18s0"
  pci_bus_id = "0000:12:00.0"
}
nic "mlx5_2" {
  netdev     = "ibp75s0"
  pci_bus_id = "0000:4b:00.0"
}
nic "mlx5_3" {
  netdev     = "ibp84s0"
  pci_bus_id = "0000:54:00.0"
}
nic "mlx5_4" {
  netdev     = "enp97s0f0np0"
  pci_bus_id = "0000:61:00.0"
}
nic "mlx5_5" {
  netdev     = "enp97s0f1np1"
  pci_bus_id = "0000:61:00.1"
}
nic "mlx5_6" {
  netdev     = "ibp141s0"
  pci_bus_id = "0000:8d:00.0"
}
nic "mlx5_7" {
  netdev     = "ibp148s0"
  pci_bus_id = "0000:94:00.0"
}
nic "mlx5_8" {
  netdev     = "ibp186s0"
  pci_bus_id = "0000:ba:00.0"
}
nic "mlx5_9" {
  netdev     = "ibp204s0"
  pci_bus_id = "0000:cc:00.0"
}
nic "mlx5_10" {
  netdev     = "enp225s0f0np0"
  pci_bus_id = "0000:e1:00.0"
}
nic "mlx5_11" {
  netdev     = "enp225s0f1np1"
  pci_bus_id = "0000:e1:00.1"
}
