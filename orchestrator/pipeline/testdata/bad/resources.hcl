pipeline "p" {}

step "a" {
  command = ["x"]
  resources {
    cpu    = -4
    memory = "12 parsecs"
    gpu {
      count  = 0
      memroy = "40 GB"
      memory = "lots"
      device = "a/b/c/d"
    }
  }
}

step "b" {
  command = ["x"]
  resources {
    cpu    = 500
    cores  = 2
    memory = "1 KiB"
    gpu {
      memory = "0 GB"
      constraint {
        attribute = "memory"
        operator  = "=>"
        value     = "1"
      }
      constraint { attribute = "cuda_cores" }
    }
  }
}

step "c" {
  command = ["x"]
  resources {
    memory = "1000 TiB"
    gpu    = 1
  }
}
