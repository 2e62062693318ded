"""Asks a served model about held-out digits and compares with their labels.

    python3 check.py http://127.0.0.1:8080 holdout.csv

Exits with 1 if fewer than --min-accuracy are right.
"""

import argparse
import json
import sys
import urllib.request
from pathlib import Path

import digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the model is served; /v2/models/<model>/infer is added")
    parser.add_argument("holdout", type=Path, help="a CSV file such as the features step's output holdout")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--min-accuracy", type=float, default=0.9)
    args = parser.parse_args()

    rows = digits.read(args.holdout)[0][: args.rows]
    right = 0
    for i in range(0, len(rows), args.batch):
        batch = rows[i : i + args.batch]
        said = ask(f"{args.url.rstrip('/')}/v2/models/{args.model}/infer", batch)
        right += sum(digit == d.label for digit, d in zip(said, batch))
    accuracy = right / len(rows)
    print(f"check: {right} of {len(rows)} held-out digits are right ({accuracy:.1%})")
    if accuracy < args.min_accuracy:
        sys.exit(f"check: want {args.min_accuracy:.1%}")


def ask(url: str, batch: "list[digits.Digit]") -> "list[int]":
    pixels = [p for d in batch for p in d.pixels]
    tensor = {"name": "image", "datatype": "FP32", "shape": [len(batch), digits.PIXELS], "data": pixels}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "digit"}]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["outputs"][0]["data"]


if __name__ == "__main__":
    main()
