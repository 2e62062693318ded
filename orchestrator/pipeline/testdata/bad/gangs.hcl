pipeline "p" {}

step "a" {
  command        = ["x"]
  priority_class = "not a name"
  preemptible    = "perhaps"
  timeout        = "1h"
  run_time       = "2h"
  gang {}
}

step "b" {
  command = ["x"]
  gang {
    size     = 0
    within   = "rak"
    required = true
    timeout  = "0s"
  }
}

step "c" {
  command = ["x"]
  gang {
    size     = 4
    min      = 2
    max      = 4
    required = true
  }
}

sweep "d" {
  command  = ["x"]
  run_time = "soon"
  metric "loss" { goal = "minimize" }
  parameter "a" { values = [1] }
  gang {
    min = 4
    max = 2
  }
  gang { size = 2 }
}

step "e" {
  command = ["x"]
  gang { min = 2 }
  resources {
    gpu { count = 2 }
    gpu { count = 2 }
    gpu "large" {
      topology {}
    }
    gpu {
      topology {
        level    = "rack"
        required = 3
      }
    }
    gpu {
      topology { level = "iland" }
    }
  }
}

step "f" {
  command = ["x"]
  gang    = 4
  resources {
    gpu { count = 1 }
    gpu { count = 2 }
    gpu { count = 3 }
    gpu { count = 4 }
    gpu { count = 5 }
    gpu { count = 6 }
    gpu { count = 7 }
    gpu { count = 8 }
    gpu { count = 9 }
    gpu { count = 10 }
    gpu { count = 11 }
    gpu { count = 12 }
    gpu { count = 13 }
    gpu { count = 14 }
    gpu { count = 15 }
    gpu { count = 16 }
    gpu { count = 17 }
    gpu { count = 18 }
  }
}

step "g" {
  command = ["x"]
  gang { size = step.e.metrics.members }
}

endpoint "h" {
  model       = model.m
  command     = ["x"]
  preemptible = true
  gang { size = 2 }
}
