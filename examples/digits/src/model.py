"""A network with one hidden layer, or none, in plain Python."""

import json
import math
import random
from operator import mul
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from digits import CLASSES, PIXELS

Vector = List[float]
Example = Tuple[Vector, int]


def read_examples(path: Path) -> List[Example]:
    with path.open() as f:
        return [(row["x"], row["label"]) for row in map(json.loads, f)]


class Layer:
    """Weights, a row for each output; the last of a row is the bias."""

    def __init__(self, rows: List[Vector]) -> None:
        self.rows = rows

    @classmethod
    def random(cls, inputs: int, outputs: int, rng: random.Random) -> "Layer":
        spread = (2 / inputs) ** 0.5
        return cls([[rng.gauss(0, spread) for _ in range(inputs)] + [0.0] for _ in range(outputs)])

    def forward(self, x: Vector) -> Vector:
        # zip and map stop at the end of x; the bias is added by itself.
        return [sum(map(mul, row, x), row[-1]) for row in self.rows]

    def backward(self, gradient: Vector) -> Vector:
        """The gradient at this layer's input."""
        back = [0.0] * (len(self.rows[0]) - 1)
        for row, g in zip(self.rows, gradient):
            if g:
                back = [b + g * w for b, w in zip(back, row)]
        return back

    def step(self, x: Vector, gradient: Vector, lr: float, l2: float) -> None:
        keep = 1 - lr * l2
        for row, g in zip(self.rows, gradient):
            if g or l2:
                bias, s = row[-1] - lr * g, lr * g
                row[:] = [keep * w - s * v for w, v in zip(row, x)]
                row.append(bias)


class Network:
    """Learns by one example at a time. Everything is a function of the
    parameters and the order of the examples: equal runs give equal bits."""

    def __init__(self, layers: List[Layer], scaling: Dict[str, float]) -> None:
        self.layers = layers
        self.scaling = scaling

    @classmethod
    def random(cls, hidden: int, seed: int, scaling: Dict[str, float]) -> "Network":
        rng = random.Random(seed)
        sizes = [PIXELS, hidden, CLASSES] if hidden else [PIXELS, CLASSES]
        return cls([Layer.random(a, b, rng) for a, b in zip(sizes, sizes[1:])], scaling)

    def activations(self, x: Vector) -> List[Vector]:
        """The input of each layer, and the probabilities."""
        values = [x]
        for layer in self.layers[:-1]:
            values.append([max(0.0, v) for v in layer.forward(values[-1])])
        values.append(softmax(self.layers[-1].forward(values[-1])))
        return values

    def learn(self, x: Vector, label: int, lr: float, l2: float) -> float:
        """Takes one step and returns the loss before it."""
        values = self.activations(x)
        probabilities = values.pop()
        gradient = list(probabilities)
        gradient[label] -= 1
        for layer, value in zip(reversed(self.layers), reversed(values)):
            before = layer.backward(gradient) if layer is not self.layers[0] else []
            layer.step(value, gradient, lr, l2)
            gradient = [g if v > 0 else 0.0 for g, v in zip(before, value)]
        return cross_entropy(probabilities, label)

    def evaluate(self, examples: Sequence[Example]) -> Tuple[float, float]:
        """The mean loss and the accuracy."""
        loss, right = 0.0, 0
        for x, label in examples:
            probabilities = self.activations(x)[-1]
            loss += cross_entropy(probabilities, label)
            right += most(probabilities) == label
        return loss / len(examples), right / len(examples)

    def classify(self, pixels: Sequence[float]) -> Vector:
        """The probabilities of a picture of 64 pixels of 0 to 16."""
        mean, spread = self.scaling["mean"], self.scaling["spread"]
        return self.activations([(p - mean) / spread for p in pixels])[-1]

    def save(self, path: Path) -> None:
        document: Dict[str, Any] = {"format": 1, "scaling": self.scaling, "layers": [layer.rows for layer in self.layers]}
        path.write_text(json.dumps(document, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Network":
        document = json.loads(path.read_text())
        if document.get("format") != 1:
            raise ValueError(f"{path} has format {document.get('format')!r}; this program knows 1")
        return cls([Layer(rows) for rows in document["layers"]], document["scaling"])


def softmax(values: Vector) -> Vector:
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    total = sum(powers)
    return [p / total for p in powers]


def cross_entropy(probabilities: Vector, label: int) -> float:
    return -math.log(max(probabilities[label], 1e-300))


def most(probabilities: Vector) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)
