# A training on one GPU, by plain `nomad job run`: no orchestrator.
#
# It goes on from its newest whole checkpoint after any failure. Checkpoints are
# in the allocation's folder; with an artifact store (the driver's `store`, or
# `store` below) they are copied there, too, and a training whose node is lost
# goes on elsewhere.
#
#   nomad job run -var code=/srv/code/mnist train.nomad.hcl

variable "code" {
  type        = string
  description = "Folder with train.py, on the node."
}

job "train" {
  type = "batch"

  group "task" {
    # What an update or a drain moves on to the next allocation.
    ephemeral_disk {
      size    = 5000
      sticky  = true
      migrate = true
    }

    restart {
      attempts = 3
      interval = "1h"
      delay    = "15s"
      mode     = "fail"
    }

    task "main" {
      driver = "ml"

      config {
        command = "python3"
        args    = ["${NOMAD_TASK_DIR}/drover/inputs/code/train.py"]
        params  = jsonencode({ lr = 0.001, epochs = 20 })

        input {
          name   = "code"
          source = "file://${var.code}"
        }

        output {
          name = "model"
        }

        checkpoint {
          keep = 3
        }

        # A training that logs no metrics for so long has hung.
        stall_timeout = "30m"
      }

      # How long a training has for a last checkpoint after SIGTERM. The agent's
      # max_kill_timeout must allow it.
      kill_timeout = "60s"

      resources {
        cpu    = 4000
        memory = 8192

        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}
