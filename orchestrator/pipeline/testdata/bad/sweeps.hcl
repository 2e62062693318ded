pipeline "p" {}

sweep "none" {
  command = ["x"]
}

sweep "grid" {
  command = ["x"]
  method  = "gird"
  params  = { lr = 1 }
  metric "acc" { goal = "up" }
  parameter "lr" {
    min = 0
    max = 1
  }
  parameter "n" {
    min     = 1
    max     = 200
    integer = true
  }
  parameter "m" {
    min     = 1
    max     = 200
    integer = true
  }
}

sweep "random" {
  command = ["x"]
  method  = "random"
  trials  = 1000000
  params  = { fixed = 1, e = 2 }
  metric "acc" { goal = "minimize" }
  parameter "a" {
    min   = 0
    max   = 1
    scale = "log"
  }
  parameter "b" {
    min = 2
    max = 1
  }
  parameter "c" {
    values = [1]
    max    = 2
  }
  parameter "d" { values = [] }
  parameter "e" { values = [1, 2] }
  parameter "e" { values = [3] }
  parameter "f" {
    min     = 0.5
    max     = 2
    integer = true
  }
  parameter "g" { min = 1 }
}
