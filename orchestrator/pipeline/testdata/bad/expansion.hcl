pipeline "p" {}

locals {
  hundred = range(100)
  product = setproduct(local.hundred, local.hundred, local.hundred)
  wide    = format("%1000000000d", 1)
  nan     = pow(-1, 0.5)
  l0      = join("", [for i in range(1000) : "0123456789abcdef"])
  l1      = "${local.l0}${local.l0}${local.l0}${local.l0}${local.l0}${local.l0}${local.l0}${local.l0}"
  l2      = "${local.l1}${local.l1}${local.l1}${local.l1}${local.l1}${local.l1}${local.l1}${local.l1}${local.l1}"
}

step "many" {
  for_each = toset([for p in setproduct(local.hundred, local.hundred, [0]) : join("-", p)])
  command  = ["x"]
}

step "more" {
  for_each = toset([for p in setproduct(local.hundred, local.hundred) : join("-", p)])
  command  = ["x"]
}

step "most" {
  command = ["x"]
}
