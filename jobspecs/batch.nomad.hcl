# The smallest task of the ml driver: a command with a parameter and an output.
# It runs on any node, without GPUs and without an artifact store.
#
#   nomad job run batch.nomad.hcl
#   nomad alloc logs <allocation>
#   nomad alloc fs <allocation> main/local/drover/outputs/greeting

job "batch" {
  type = "batch"

  group "task" {
    task "main" {
      driver = "ml"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"hello, $DROVER_PARAM_WHO\" | tee \"$DROVER_OUTPUT_DIR/greeting\""]
        params  = jsonencode({ who = "world" })

        output {
          name = "greeting"
        }
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
