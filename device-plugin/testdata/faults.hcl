fault "1" {
  reason = "Xid 79: GPU has fallen off the bus"
}

fault "2" {
  gone = true
}
