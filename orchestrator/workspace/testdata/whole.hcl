# A team that trains and serves, one that trains at night, and what they share.

policy {
  run_time         = "12h"
  half_life        = "168h"
  aging            = "1h"
  min_run_time     = "10m"
  preemption_delay = "2m"
}

flavor "h100" {
  vendor     = "nvidia"
  model      = "*H100*"
  memory_min = "70 GiB"
}
flavor "l4" { model = "*L4" }

priority_class "urgent" { value = 1000 }
priority_class "normal" {
  value   = 0
  default = true
}

cohort "company" {
  quota "h100" { nominal = 8 }
}
cohort "research" {
  parent = "company"
  weight = 2
}

workspace "vision" {
  namespace        = "vision"
  node_pools       = ["gpu"]
  cohort           = "research"
  weight           = 3
  strict           = true
  priority_classes = ["normal", "urgent"]

  quota "h100" {
    nominal = 16
    borrow  = 8
    lend    = 12
  }
  quota "l4" { nominal = 4 }
  serving "h100" {
    floor    = 2
    headroom = 1.5
  }
  budget {
    gpu_hours = 5000
    per       = "month"
  }
}

workspace "speech" {
  cohort      = "research"
  preemptible = false
  quota "h100" { nominal = 0 }
  schedule "nights" {
    days     = ["mon", "tue", "wed", "thu", "fri"]
    from     = "20:00"
    to       = "06:00"
    timezone = "Europe/Berlin"
    quota "h100" { nominal = 16 }
  }
  schedule "maintenance" {
    cron     = "0 8 1 * *"
    duration = "4h"
    quota "h100" {
      nominal = 0
      borrow  = 0
    }
  }
}
