# A model behind HTTP, as a service of Nomad's own discovery, run as an
# unprivileged user.
#
#   nomad job run -var model=/srv/models/digits serve.nomad.hcl
#   nomad service info model

variable "model" {
  type        = string
  description = "File or folder of the model, on the node."
}

variable "model_digest" {
  type        = string
  default     = ""
  description = "Digest that the model must have (sha256:…), \"\" for any."
}

job "serve" {
  type = "service"

  group "task" {
    count = 2

    network {
      port "http" {}
    }

    service {
      name     = "model"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "main" {
      driver = "ml"
      user   = "nobody"

      config {
        command  = "/usr/bin/python3"
        args     = ["-m", "http.server", "${NOMAD_PORT_http}", "--bind", "${NOMAD_IP_http}"]
        work_dir = "local/drover/inputs"

        input {
          name   = "model"
          source = "file://${var.model}"
          sha256 = var.model_digest
        }
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
