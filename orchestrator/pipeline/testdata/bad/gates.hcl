pipeline "p" {}

dataset "d" { path = "d" }

step "fan" {
  for_each = toset(["a"])
  command  = ["x"]
}

gate "none" {}

gate "g" {
  check "a" { from = step.fan["a"] }
  check "b" {
    from     = step.fan
    champion = true
  }
  check "c" {
    from      = dataset.d
    min       = 2
    max       = 1
    min_delta = 0.1
  }
}

gate "other" {
  model = "digist"
  check "a" {
    from     = step.fan["a"]
    champion = true
  }
}

model "digits" {
  from    = step.fan["a"]
  gate    = step.fan["a"]
  metrics = step.fan
}

endpoint "digits" {
  model   = step.fan["a"]
  command = ["x"]
  count   = 0
}
