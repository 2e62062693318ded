import os
from mark import mark
mark("status=" + os.environ["STATUS"])
