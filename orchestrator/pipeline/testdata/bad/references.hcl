pipeline "p" {}

variable "epochs" { default = 3 }
locals { python = ["python3"] }
dataset "digits" { path = "digits.csv" }

step "train" {
  command = ["x", var.epoch, local.pyton, train.output.model, digit]
  output "model" {}
  params = { a = var, b = each.key, c = run.status, d = lenght("x") }
}

step "fan" {
  for_each = toset(["a", "b"])
  command  = ["x", each.vale]
  output "out" {}
}

step "evaluate" {
  command = ["x", "${device.attr.memory}"]
  input "a" { from = step.trian.output.model }
  input "b" { from = step.train.output.modle }
  input "c" { from = step.train.model }
  input "d" { from = sweep.train.best.output.model }
  input "e" { from = step.fan["c"].output.out }
  input "f" { from = step.fan.output.out }
  input "g" { from = step.train["a"].output.model }
  input "h" { from = dataset.digits.path }
  input "i" { from = step.train.metrics.loss }
  input "j" { from = "model.bin" }
  input "k" { from = step.train }
  depends_on = [train, step.nobody, "step.train"]
}
