import os
from mark import mark
mark()
first = open(os.environ["DROVER_INPUT_DIR"] + "/first").read()
open(os.environ["DROVER_OUTPUT_DIR"] + "/out", "w").write(os.environ["DROVER_PARAM_SIDE"] + first)
