policy {
  half_life     = "a week"
  aging         = "-1h"
  max_evictions = 1.5
}

policy {}

flavor "H100" { model = "*H100*" }
flavor "cpu" {}
flavor "a100" {
  memory_min = "80 GiB"
  memory_max = "40 GiB"
}
flavor "l4" { memory_min = "much" }

priority_class "high" {
  value   = 2000000
  default = true
}
priority_class "low" {
  value   = 1
  default = true
}
priority_class "low" {}

cohort "a" { parent = "c" }
cohort "b" { parent = "a" }
cohort "c" { parent = "b" }
cohort "below" { parent = "a" }
cohort "self" { parent = "self" }
cohort "orphan" {
  parent = "nobody"
  weight = -1
}

workspace "a" {}
workspace "vision" {
  namespace        = "vision"
  node_pools       = ["gpu", "no pool", "gpu"]
  cohort           = "researhc"
  weight           = 0.5
  priority_classes = ["low", "middle", "low"]
  preemptible      = "perhaps"
  colour           = "red"

  quota "a100" {
    nominal = -8
    borrow  = 0.0001
    lend    = 1e12
  }
  quota "a100" { nominal = 8 }
  quota "h200" { nominal = 1 }
  quota "cpu" {}

  serving "memory" { floor = 64 }

  budget {
    gpu_hours = 100
    per       = "fortnight"
  }
  budget {
    gpu_hours = 100
    per       = "day"
  }
}
workspace "speech" {
  namespace = "vision"
  quota "a100" {
    nominal = 4
    lend    = 2
  }
  serving "a100" {
    floor    = 2
    headroom = 1.5
  }
  schedule "nights" {
    from = "20:00"
    to   = "6:00"
    quota "a100" { nominal = 3 }
  }
  schedule "nights" {
    days     = ["sat", "sunday", "sat"]
    cron     = "0 20 * *"
    timezone = "Mars/Olympus"
  }
  schedule "some time" {
    duration = "8h"
    quota "a100" { nominal = 8 }
  }
}
workspace "vision" {}
work "x" {}
