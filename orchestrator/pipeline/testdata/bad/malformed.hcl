pipeline "p" {}

step "a" {
  command = ["x"
  output "o" {}
}
