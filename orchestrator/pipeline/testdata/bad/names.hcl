pipeline "My Pipeline" {}

variable "two words" { default = 1 }

step "Train Model" {
  command = ["x"]
  input "../../etc/passwd" { from = dataset.d }
  output "a/b" {}
  output "%2e%2e%2fx" {}
}

dataset "d" { path = "http://example.com/d.csv" }
dataset "e" {
  path   = ""
  sha256 = "abc"
}

model ".." { from = dataset.d }
model "m" {
  from  = step.x.output.model
  alias = "a/b"
}

step "x" {
  command = ["x"]
  output "model" {}
}

endpoint "Upper_Case" {
  model      = model.m
  command    = ["x"]
  port       = "80"
  ready_path = "/../admin?x"
}

step "fan" {
  for_each = toset([""])
  command  = ["x"]
}
