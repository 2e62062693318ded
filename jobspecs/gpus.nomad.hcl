# Ways to ask for GPUs, by plain `nomad job run`: a group each. Every task prints
# what it got.
#
#   nomad job run gpus.nomad.hcl
#   nomad alloc logs -job gpus
#
# A node that offers none of a kind leaves that group waiting, and
# `nomad job status gpus` says for what.

job "gpus" {
  type = "batch"

  # Two whole GPUs of at least 80 GB (an "80 GB" card has less than 80 GiB), with
  # NVLink between them, on a node that can run programs of CUDA 12.4.
  group "whole" {
    task "main" {
      driver = "ml"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo $CUDA_VISIBLE_DEVICES; NUMA node: $DROVER_NUMA_NODES; network cards: $DROVER_NICS"]
      }

      resources {
        device "nvidia/gpu" {
          count = 2

          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "80 GB"
          }

          constraint {
            attribute = "${device.attr.cuda_compat}"
            operator  = "version"
            value     = ">= 12.4"
          }

          constraint {
            attribute = "${device.attr.nvlinks}"
            operator  = ">="
            value     = "1"
          }
        }
      }
    }
  }

  # A MIG slice of one profile, of any board: its device name ends with it.
  group "slice" {
    task "main" {
      driver = "ml"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo $CUDA_VISIBLE_DEVICES"]
      }

      resources {
        device "nvidia/gpu" {
          constraint {
            attribute = "${device.attr.mig_profile}"
            value     = "1g.5gb"
          }
        }
      }
    }
  }

  # A part of a GPU whose limits are kept.
  group "shared" {
    task "main" {
      driver = "ml"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo $CUDA_VISIBLE_DEVICES, sharing by $DROVER_GPU_SHARING"]
      }

      resources {
        device "nvidia/gpu.shared" {
          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "4 GiB"
          }
        }
      }
    }
  }
}
