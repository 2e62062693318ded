# A node of whole boards, slices and a card of another make.
driver_version = "550.54.15"
cuda_version   = "12.4"

board "a100-40gb" {
  count = 2
}

board "a100-40gb" {
  mig = ["3g.20gb", "4g.20gb"]
}

board "a100-40gb" {
  mig = ["1g.5gb", "2g.10gb", "3g.20gb"]
}

board "custom" {
  product            = "NVIDIA RTX 6000 Ada Generation"
  architecture       = "ada"
  compute_capability = 8.9
  memory_mib         = 49140
  power_w            = 300
}
