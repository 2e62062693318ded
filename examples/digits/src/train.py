"""Trains the network. Stopped at any moment, it goes on from its last epoch,
and ends with the same model, bit for bit, as if it had never been stopped."""

import json
import random

from model import Network, read_examples
from runtime import drover


def main() -> None:
    lr = drover.param("lr", 0.02)
    epochs = drover.param("epochs", 10)
    hidden = drover.param("hidden", 24)
    l2 = drover.param("l2", 0.0001)
    seed = drover.param("seed", drover.run_info().seed)
    if lr <= 0 or epochs < 1 or hidden < 0 or l2 < 0:
        raise SystemExit("train: lr must be above 0, epochs at least 1, hidden and l2 not below 0")

    features = drover.input("features")
    train, val = read_examples(features / "train.jsonl"), read_examples(features / "val.jsonl")

    found = drover.resume()
    if found:
        network, first = Network.load(found.path / "model.json"), found.step + 1
        print(f"train: goes on after epoch {found.step}", flush=True)
    else:
        network, first = Network.random(hidden, seed, json.loads((features / "scaling.json").read_text())), 1

    for epoch in range(first, epochs + 1):
        # The order depends on the epoch alone, so there is no state to keep.
        order = random.Random(f"{seed}/{epoch}").sample(train, len(train))
        rate = lr / (1 + 0.1 * (epoch - 1))
        loss = sum(network.learn(x, label, rate, l2) for x, label in order) / len(order)
        val_loss, val_accuracy = network.evaluate(val)
        drover.log(step=epoch, epoch=epoch, loss=loss, val_loss=val_loss, val_accuracy=val_accuracy)
        print(f"train: epoch {epoch}/{epochs} loss {loss:.4f} val_accuracy {val_accuracy:.4f}", flush=True)
        drover.checkpoint(epoch, lambda folder: network.save(folder / "model.json"))

    network.save(drover.output("model"))


if __name__ == "__main__":
    main()
