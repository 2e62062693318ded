"""A member of a gang: rank 0 gathers the ranks of all, and tells them the sum."""
import os
import socket
import sys
import time
from mark import mark

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
meeting = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
mark(f"rank={rank} of={size} devices={os.environ['CUDA_VISIBLE_DEVICES']}")


def marked():
    """How many members have left a mark in the first attempt."""
    with open(os.path.join(os.environ["MARKS"], "starts")) as f:
        return sum(" attempt=1 " in line and f" of={size} " in line for line in f)


if rank == int(os.environ["DROVER_PARAM_FAILS"]) and os.environ["DROVER_ATTEMPT"] == "1":
    while marked() < size:  # else the others are ended before they can
        time.sleep(0.05)
    sys.exit(3)


def connect():
    for _ in range(600):
        try:
            return socket.create_connection(meeting, timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise TimeoutError(f"nobody at {meeting}")


if rank == 0:
    with socket.create_server(("", meeting[1])) as server:
        others = [server.accept()[0] for _ in range(size - 1)]
    total = sum(int(c.makefile().readline()) for c in others)
    for c in others:
        c.sendall(b"%d\n" % total)
    with open(os.path.join(os.environ["DROVER_OUTPUT_DIR"], "sum"), "w") as f:
        f.write(str(total))
else:
    with connect() as c:
        c.sendall(b"%d\n" % rank)
        total = int(c.makefile().readline())
mark(f"rank={rank} sum={total}")
