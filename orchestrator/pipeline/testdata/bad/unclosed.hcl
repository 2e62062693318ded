pipeline "p" {}

step "a" {
  command = ["x"]
