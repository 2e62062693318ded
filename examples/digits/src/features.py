"""Splits the data and scales it."""

import json
import random
from pathlib import Path
from typing import Dict, List

import digits
from runtime import drover


def main() -> None:
    seed = drover.param("seed", drover.run_info().seed)
    val_share = drover.param("val_share", 0.2)
    test_share = drover.param("test_share", 0.2)
    if min(val_share, test_share) <= 0 or val_share + test_share >= 1:
        raise SystemExit("features: val_share and test_share must be above 0, and together below 1")

    rows, problems = digits.read(drover.input("clean"))
    if problems:
        raise SystemExit(f"features: {problems[0]} (and {len(problems) - 1} more problems): validate the data first")
    parts = split(rows, seed, val_share, test_share)

    # What is scaled by must come from the training part alone.
    pixels = [p for d in parts["train"] for p in d.pixels]
    mean = sum(pixels) / len(pixels)
    spread = (sum((p - mean) ** 2 for p in pixels) / len(pixels)) ** 0.5
    scaling = {"mean": mean, "spread": spread}

    folder = drover.output("features")
    folder.mkdir(exist_ok=True)
    (folder / "scaling.json").write_text(json.dumps(scaling) + "\n")
    for name, part in parts.items():
        write(folder / f"{name}.jsonl", part, mean, spread)
    digits.write(drover.output("holdout"), parts["test"])
    drover.log(0, {f"{name}_rows": len(part) for name, part in parts.items()})
    print("features:", ", ".join(f"{len(part)} {name}" for name, part in parts.items()))


def split(rows: List[digits.Digit], seed: int, val_share: float, test_share: float) -> Dict[str, List[digits.Digit]]:
    """Splits each class by itself, so that all parts have the same balance."""
    rng = random.Random(seed)
    parts: Dict[str, List[digits.Digit]] = {"train": [], "val": [], "test": []}
    for label in range(digits.CLASSES):
        of_class = [d for d in rows if d.label == label]
        rng.shuffle(of_class)
        val, test = round(len(of_class) * val_share), round(len(of_class) * test_share)
        parts["val"] += of_class[:val]
        parts["test"] += of_class[val : val + test]
        parts["train"] += of_class[val + test :]
    for part in parts.values():
        rng.shuffle(part)
    return parts


def write(path: Path, part: List[digits.Digit], mean: float, spread: float) -> None:
    with path.open("w") as f:
        for d in part:
            x = [round((p - mean) / spread, 6) for p in d.pixels]
            f.write(json.dumps({"x": x, "label": d.label}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
