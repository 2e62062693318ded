workspace "w" {
  cohort = "none"
  quota "cpu" { nominal = 
}
