from mark import lib, mark
mark()
lib()
import drover
x = drover.param("x", type=int)
drover.log(step=1, score=-(x - 2) ** 2)
