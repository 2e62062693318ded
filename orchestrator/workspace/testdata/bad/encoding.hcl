workspace "wÿ" {}
