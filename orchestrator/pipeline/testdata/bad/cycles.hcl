pipeline "p" {}

locals {
  a = local.b
  b = [local.c]
  c = { x = local.a }
  d = local.d
}

step "first" {
  command = ["x", step.third.metrics.loss]
  output "out" {}
}

step "second" {
  command = ["x"]
  input "in" { from = step.first.output.out }
  output "out" {}
}

step "third" {
  command    = ["x"]
  depends_on = [step.second]
}

step "self" {
  command = ["x", step.self.status]
}

step "fan" {
  for_each = toset([step.fan["a"].status])
  command  = ["x"]
}
