# Handwritten digits: from a file of pictures to a model behind an endpoint.
# The scripts are described in README.md, the language in docs/pipeline.md.

pipeline "digits" {
  description = "Recognises handwritten digits with a small neural network"
}

variable "epochs" {
  description = "Epochs of the final training"
  type        = number
  default     = 12

  validation {
    condition     = var.epochs >= 1 && floor(var.epochs) == var.epochs
    error_message = "Train for a whole number of epochs, at least 1."
  }
}

variable "search_epochs" {
  description = "Epochs of each trial of the search"
  type        = number
  default     = 4
}

variable "learning_rates" {
  description = "Learning rates to try"
  type        = list(number)
  default     = [0.003, 0.01, 0.03]

  validation {
    condition     = length(var.learning_rates) > 0 && alltrue([for lr in var.learning_rates : lr > 0])
    error_message = "Give at least one learning rate; all must be more than 0."
  }
}

variable "learning_rate_scale" {
  description = "Multiplies the learning rate that the search found best; far from 1 it spoils the model"
  type        = number
  default     = 1
}

variable "hidden" {
  description = "Units of the hidden layer, 0 for none"
  type        = number
  default     = 24
}

variable "min_accuracy" {
  description = "Accuracy on unseen pictures below which no model is registered"
  type        = number
  default     = 0.9
}

locals {
  python = ["python3", "-u"]
}

dataset "digits" {
  path = "data/digits.csv.gz"
}

# The library that the scripts use, from this checkout: nothing to install.
dataset "drover" {
  path = "../../python/src"
}

step "validate" {
  code    = "src"
  command = concat(local.python, ["validate.py"])
  params  = { min_rows = 1000 }

  input "digits" { from = dataset.digits }
  input "drover" { from = dataset.drover }
  output "clean" {}
  output "profile" {}
}

step "features" {
  code    = "src"
  command = concat(local.python, ["features.py"])
  seed    = 1

  input "clean" { from = step.validate.output.clean }
  input "drover" { from = dataset.drover }
  output "features" {}
  output "holdout" {} # raw rows that no training has seen, to try the endpoint with
}

sweep "search" {
  method   = "grid"
  parallel = 2
  seed     = 1

  metric "val_accuracy" { goal = "maximize" }
  parameter "lr" { values = var.learning_rates }

  code    = "src"
  command = concat(local.python, ["train.py"])
  params  = { epochs = var.search_epochs, hidden = var.hidden }

  input "features" { from = step.features.output.features }
  input "drover" { from = dataset.drover }
  output "model" {}
}

step "train" {
  code    = "src"
  command = concat(local.python, ["train.py"])
  seed    = 1
  params = merge(sweep.search.best.params, {
    epochs = var.epochs
    lr     = sweep.search.best.params.lr * var.learning_rate_scale
  })

  input "features" { from = step.features.output.features }
  input "drover" { from = dataset.drover }
  output "model" {}
  checkpoint { keep = 3 }
  retry { attempts = 1 }
}

step "evaluate" {
  code    = "src"
  command = concat(local.python, ["evaluate.py"])

  input "model" { from = step.train.output.model }
  input "features" { from = step.features.output.features }
  input "drover" { from = dataset.drover }
  output "report" {}
}

gate "accuracy" {
  model = "digits"

  check "accuracy" {
    from = step.evaluate
    min  = var.min_accuracy
  }
  check "accuracy" {
    from      = step.evaluate
    champion  = true
    min_delta = -0.01 # a hundredth less is noise
  }
}

model "digits" {
  from    = step.train.output.model
  gate    = gate.accuracy
  alias   = "champion"
  metrics = [step.evaluate]
}

endpoint "digits" {
  model   = model.digits
  code    = "src"
  command = concat(local.python, ["serve.py"])

  input "drover" { from = dataset.drover }
}
