pipeline "queue" {
  description = "One task that holds GPUs until it is let go, or ends at once."
}

variable "marks" {
  type        = string
  description = "Folder in which every task start leaves a line, and whose file go lets it end."
}
variable "gpus" {
  type    = number
  default = 8
}
variable "priority" {
  type    = number
  default = 50
}
variable "long" {
  type    = bool
  default = false
}

dataset "drover" { path = "../../../python/src" }

step "work" {
  code        = "code"
  command     = ["python3", var.long ? "steady.py" : "short.py"]
  env         = { MARKS = var.marks }
  priority    = var.priority
  preemptible = var.long
  run_time    = "1m"
  input "drover" { from = dataset.drover }
  output "model" { optional = true }
  checkpoint {}
  resources {
    gpu { count = var.gpus }
  }
}
