"""Serves the model: 64 pixels of 0 to 16 in, the digit and all probabilities out."""

from typing import Any, Dict

from digits import BRIGHTEST, CLASSES, PIXELS
from model import Network, most
from runtime import drover


def load() -> Any:
    network = Network.load(drover.input("model"))

    def predict(inputs: Dict[str, Any]) -> Dict[str, Any]:
        pictures = inputs["image"]
        if any(not 0 <= p <= BRIGHTEST for picture in pictures for p in picture):
            raise drover.BadInput(f"a pixel is 0 to {BRIGHTEST}")
        probabilities = [network.classify(picture) for picture in pictures]
        return {"digit": [most(p) for p in probabilities], "probabilities": probabilities}

    return predict


if __name__ == "__main__":
    drover.serve(
        load,
        model="digits",
        inputs=[drover.Tensor("image", "FP32", (-1, PIXELS))],
        outputs=[drover.Tensor("digit", "INT64", (-1,)), drover.Tensor("probabilities", "FP64", (-1, CLASSES))],
    )
