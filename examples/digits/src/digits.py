"""The data set's format: 64 pixels of 0 to 16, and the digit, a line."""

import csv
import gzip
import io
from pathlib import Path
from typing import Iterable, List, NamedTuple, Tuple

PIXELS = 64
BRIGHTEST = 16
CLASSES = 10


class Digit(NamedTuple):
    pixels: List[int]
    label: int


def read(path: Path) -> Tuple[List[Digit], List[str]]:
    """Reads a CSV file, gzipped or not: the digits, and what is wrong."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    digits, problems = [], []
    for number, fields in enumerate(csv.reader(io.StringIO(raw.decode("ascii", "replace"))), start=1):
        try:
            digits.append(_parse(fields))
        except ValueError as e:
            problems.append(f"line {number}: {e}")
    return digits, problems


def _parse(fields: List[str]) -> Digit:
    if len(fields) != PIXELS + 1:
        raise ValueError(f"{len(fields)} columns; want {PIXELS} pixels and a label")
    for column, text in enumerate(fields, start=1):
        if not text.isascii() or not text.isdecimal():
            raise ValueError(f"column {column} is {text[:20]!r}, not a whole number")
    values = [int(text) for text in fields]
    for column, value in enumerate(values[:PIXELS], start=1):
        if value > BRIGHTEST:
            raise ValueError(f"column {column} is {value}; a pixel is 0 to {BRIGHTEST}")
    if values[PIXELS] >= CLASSES:
        raise ValueError(f"label {values[PIXELS]} is not a digit")
    return Digit(values[:PIXELS], values[PIXELS])


def write(path: Path, digits: Iterable[Digit]) -> None:
    with path.open("w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([*d.pixels, d.label] for d in digits)
