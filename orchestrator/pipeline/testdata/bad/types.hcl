pipeline "p" { description = ["x"] }

variable "epochs" {
  type    = number
  default = "many"
}
variable "names" {
  type    = list(strng)
  default = []
}
variable "limit" {
  type    = number
  default = -1
  validation {
    condition     = var.limit > 0
    error_message = "The limit must be positive."
  }
}
variable "unset" { type = string }

step "text" {
  command = "python train.py"
  timeout = "3 days"
  cache   = "maybe"
  seed    = 1.5
  retry {
    attempts = -1
    delay    = 10
  }
}

step "empty" {
  command = []
  params  = ["a"]
  env     = { "A-B" = "x" }
  when    = "sometimes"
}

step "blank" {
  command  = ["  "]
  params   = { learning-rate = 1, learning_rate = 2 }
  env      = { DROVER_SEED = "1" }
  priority = 101
}

step "late" {
  command  = ["x"]
  timeout  = step.blank.status
  for_each = ["a", "b"]
}

step "numbers" {
  command  = ["x"]
  for_each = toset([1, 2])
}

step "each" {
  for_each = [1]
  command  = ["x", each.key, step.late[each.key].status, each.value.any]
  timeout  = "soon"
}

step "inputs" {
  command = null
  input "null" { from = null }
  input "list" { from = ["sha256:x"] }
  input "text" { from = { a = "x" } }
  input "key" { from = { "a/b" = dataset.d } }
}

dataset "d" { path = "d" }

step "codes" {
  command = ["true"]
  retry {
    attempts  = 1
    permanent = [0, 2, 256, 1.5, null]
  }
}

step "code" {
  command = ["true"]
  retry {
    attempts  = 1
    permanent = "one"
  }
}
