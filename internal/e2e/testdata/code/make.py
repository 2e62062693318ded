from mark import lib
lib()
import drover
drover.output("model").write_text(drover.param("answer", type=str))
