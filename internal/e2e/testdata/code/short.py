"""Ends as soon as it has started."""
import os
from mark import mark
mark("devices=" + os.environ.get("CUDA_VISIBLE_DEVICES", ""))
