from mark import lib, mark
mark()
lib()
import drover
text = drover.input("model").read_text()
drover.log(step=1, accuracy=0.95 if len(text) == 64 else 0.0)
