# A board dies and is reset; another one has trouble for good.

fault "3" {
  at              = "10s"
  xid             = 79
  lost            = true
  recovery_action = "reset"
}

reset "3" { at = "40s" }

fault "1" {
  at            = "5s"
  every         = "20s"
  for           = "5s"
  ecc_corrected = 12
  temperature_c = 93
}

driver {
  at     = "50s"
  for    = "2s"
  reload = true
}
