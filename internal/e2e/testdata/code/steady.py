"""Trains until it is let go; makes a checkpoint every 10 epochs, and when asked."""
import os
import time
from mark import lib, mark
lib()
import drover

found = drover.resume()
start = int((found.path / "epoch").read_text()) if found else 0
mark("from=%d pid=%d device=%s" % (start, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]))

epoch = start
while not os.path.exists(os.path.join(os.environ["MARKS"], "go")):
    time.sleep(0.05)
    epoch += 1
    drover.log(step=epoch, loss=1 / epoch)
    if epoch % 10 == 0 or drover.should_checkpoint():
        drover.checkpoint(epoch, lambda folder: (folder / "epoch").write_text(str(epoch)))
drover.output("model").write_text(str(epoch))
