# A workstation with two cards of the desk-side kind and one NUMA node.

board "rtx-5090" {
  count       = 2
  pci_bus_ids = ["00000000:01:00.0", "00000000:21:00.0"]
}

numa "0" {
  cpus    = "0-31"
  boards  = [0, 1]
  nics    = ["nic0"]
  between = "PHB"
}

nic "nic0" {
  netdev     = "enp68s0"
  pci_bus_id = "0000:44:00.0"
  rdma       = false
}
