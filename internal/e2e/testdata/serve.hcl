pipeline "serve" {}

variable "answer" { type = string }
variable "count" {
  type    = number
  default = 2
}
variable "broken" {
  type    = bool
  default = false
}

dataset "drover" { path = "../../../python/src" }

step "make" {
  code    = "code"
  command = ["python3", "make.py"]
  params  = { answer = var.answer }
  input "drover" { from = dataset.drover }
  output "model" {}
}

model "oracle" {
  from  = step.make.output.model
  alias = "champion"
}

endpoint "oracle" {
  model   = model.oracle
  code    = "code"
  command = ["python3", "oracle.py"]
  env     = { BROKEN = tostring(var.broken) }
  count   = var.count

  ready_timeout = "20s"
  input "drover" { from = dataset.drover }
}
