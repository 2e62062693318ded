pipeline "gang" {
  description = "Three processes that meet, add up their ranks, and end."
}

variable "marks" {
  type        = string
  description = "Folder in which every start of a member leaves a line."
}
variable "fails" {
  type        = number
  default     = -1
  description = "The rank that fails in the first attempt."
}

variable "priority" {
  type    = number
  default = 50
}
variable "permanent" {
  type        = list(number)
  default     = []
  description = "Exit codes after which there is no other attempt."
}

dataset "drover" { path = "../../../python/src" }

step "train" {
  code    = "code"
  command = ["python3", "gang.py"]
  env     = { MARKS = var.marks }
  params  = { fails = var.fails }

  priority = var.priority
  input "drover" { from = dataset.drover }
  output "sum" {}
  retry {
    attempts  = 1
    permanent = var.permanent
  }
  gang {
    size    = 3
    timeout = "1m"
  }
  resources {
    gpu { count = 4 }
  }
}
