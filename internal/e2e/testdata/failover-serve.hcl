pipeline "failover-serve" {}

dataset "drover" { path = "../../../python/src" }

step "make" {
  code    = "code"
  command = ["python3", "make.py"]
  params  = { answer = "here" }
  input "drover" { from = dataset.drover }
  output "model" {}
}

model "oracle" {
  from = step.make.output.model
}

endpoint "oracle" {
  model   = model.oracle
  code    = "code"
  command = ["python3", "oracle.py"]
  env     = { BROKEN = "false" }
  input "drover" { from = dataset.drover }
  resources {
    gpu { count = 1 }
  }
}
