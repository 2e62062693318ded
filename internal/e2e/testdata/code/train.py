import hashlib
import os
import time
from mark import lib, mark
lib()
import drover

epochs, pace = drover.param("epochs", type=int), drover.param("pace", type=float)
inputs = "".join(drover.input(name).read_text() for name in ("left", "right"))
state, start = inputs + str(drover.param("x", type=int)), 0
found = drover.resume()
if found:
    start, state = found.step, (found.path / "state").read_text()
mark("from=%d devices=%s" % (start, os.environ.get("CUDA_VISIBLE_DEVICES")))


def save(folder):
    (folder / "state").write_text(state)
    # Something of a size, so that a kill can fall inside a write.
    (folder / "weights").write_bytes(hashlib.sha256(state.encode()).digest() * 4096)


for epoch in range(start + 1, epochs + 1):
    time.sleep(pace)
    state = hashlib.sha256((state + str(epoch)).encode()).hexdigest()
    drover.log(step=epoch, loss=1 / epoch)
    drover.checkpoint(epoch, save)
drover.output("model").write_text(state)
