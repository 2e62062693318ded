pipeline "p" { desciption = "x" }

stpe "a" {}

step {
  command = ["x"]
}

step "b" "c" {
  command = ["x"]
}

step "d" {
  comand = ["x"]
  inputs "x" { from = 1 }
  params { a = 1 }
  output = "x"
  output "y" { optinal = true }
}

gate "g" {
  for_each = toset(["a"])
}

dataset "d" { pth = "x" }
