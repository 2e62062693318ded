pipeline "spine" {
  description = "A small pipeline whose every start leaves a mark."
}

variable "marks" {
  type        = string
  description = "Folder in which every task start leaves a line."
}

variable "epochs" {
  type    = number
  default = 12
}

variable "pace" {
  type        = number
  default     = 0.02
  description = "Seconds that an epoch takes."
}

variable "retries" {
  type    = number
  default = 0
}

locals {
  env = { MARKS = var.marks }
}

dataset "seed" { path = "seed.txt" }
dataset "drover" { path = "../../../python/src" }

step "first" {
  code    = "code"
  command = ["python3", "first.py"]
  env     = local.env
  input "seed" { from = dataset.seed }
  output "out" {}
}

step "branch" {
  for_each = toset(["left", "right"])
  code     = "code"
  command  = ["python3", "branch.py"]
  env      = local.env
  params   = { side = each.key }
  input "first" { from = step.first.output.out }
  output "out" {}
}

sweep "search" {
  method   = "grid"
  parallel = 2
  metric "score" { goal = "maximize" }
  parameter "x" { values = [1, 2, 3] }
  code    = "code"
  command = ["python3", "trial.py"]
  env     = local.env
  input "drover" { from = dataset.drover }
}

step "train" {
  code    = "code"
  command = ["python3", "train.py"]
  env     = local.env
  params  = { epochs = var.epochs, pace = var.pace, x = sweep.search.best.params.x }
  input "left" { from = step.branch["left"].output.out }
  input "right" { from = step.branch["right"].output.out }
  input "drover" { from = dataset.drover }
  output "model" {}
  checkpoint { keep = 3 }
  retry { attempts = var.retries }
  resources {
    gpu { count = 1 }
  }
}

step "evaluate" {
  code    = "code"
  command = ["python3", "evaluate.py"]
  env     = local.env
  input "model" { from = step.train.output.model }
  input "drover" { from = dataset.drover }
}

gate "good" {
  model = "spine"
  check "accuracy" {
    from = step.evaluate
    min  = 0.9
  }
}

model "spine" {
  from    = step.train.output.model
  gate    = gate.good
  alias   = "champion"
  metrics = [step.evaluate]
}

step "goodbye" {
  on_exit = true
  code    = "code"
  command = ["python3", "goodbye.py"]
  env     = merge(local.env, { STATUS = run.status })
}
