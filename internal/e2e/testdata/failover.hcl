pipeline "failover" {
  description = "Four trainings on a node with GPUs, of which some fail."
}

variable "marks" {
  type        = string
  description = "Folder in which every task start leaves a line, and whose file go lets them end."
}

dataset "drover" { path = "../../../python/src" }

step "train" {
  for_each = toset(["a", "b", "c", "d"])
  code     = "code"
  command  = ["python3", "steady.py"]
  env      = { MARKS = var.marks }
  input "drover" { from = dataset.drover }
  output "model" {}
  checkpoint {}
  resources {
    gpu { count = 1 }
  }
}
