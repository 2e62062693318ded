pipeline "p" {}

step "clean" {
  command = ["x"]
  on_exit = true
  output "o" {}
}

step "a" {
  command    = ["x"]
  depends_on = [step.clean]
}
