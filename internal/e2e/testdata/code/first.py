import os
from mark import mark
mark()
seed = open(os.environ["DROVER_INPUT_DIR"] + "/seed").read().strip()
open(os.environ["DROVER_OUTPUT_DIR"] + "/out", "w").write(str(int(seed) + 1))
