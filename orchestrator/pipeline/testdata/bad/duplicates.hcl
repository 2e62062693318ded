pipeline "p" {}
pipeline "q" {}

variable "a" { default = 1 }
variable "a" { default = 2 }

locals { x = 1 }
locals { x = 2 }

step "train" {
  command = ["x"]
  output "model" {}
  output "model" {}
  input "in" { from = dataset.d }
  input "in" { from = dataset.d }
  resources {}
  resources {}
}

step "train" {
  command = []
  output "model" {}
}

dataset "d" { path = "d" }
dataset "d" { path = "d" }

model "m" { from = step.train.output.model }
model "m" { from = step.train.output.model }

endpoint "e" {
  model   = model.m
  command = ["serve"]
  input "model" { from = dataset.d }
}
endpoint "e" {
  model   = model.m
  command = ["serve"]
}
