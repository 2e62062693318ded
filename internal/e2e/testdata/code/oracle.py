import os
import sys
from mark import lib
lib()
import drover

if os.environ["BROKEN"] == "true":
    sys.exit("this revision is broken")


def load():
    answer = drover.input("model").read_text()
    return lambda inputs: {"answer": [answer], "pid": [os.getpid()]}


drover.serve(
    load,
    model="oracle",
    inputs=[drover.Tensor("question", "INT64", (-1,))],
    outputs=[drover.Tensor("answer", "BYTES", (-1,)), drover.Tensor("pid", "INT64", (-1,))],
)
