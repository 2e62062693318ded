"""Checks the raw data before anything is learned from it."""

import json
import sys
from collections import Counter

import digits
from runtime import drover

SHOWN = 10


def main() -> None:
    min_rows = drover.param("min_rows", 1000)
    min_class_share = drover.param("min_class_share", 0.05)

    rows, problems = digits.read(drover.input("digits"))
    seen = Counter(d.label for d in rows)
    smallest = min(seen[label] for label in range(digits.CLASSES)) / max(len(rows), 1)
    duplicates = len(rows) - len({(tuple(d.pixels), d.label) for d in rows})
    if len(rows) < min_rows:
        problems.append(f"{len(rows)} valid rows; want at least {min_rows}")
    for label in range(digits.CLASSES):
        share = seen[label] / max(len(rows), 1)
        if share < min_class_share:
            problems.append(f"digit {label} is {share:.1%} of the rows; want at least {min_class_share:.1%}")

    drover.log(step=0, rows=len(rows), problems=len(problems), smallest_class_share=smallest, duplicates=duplicates)
    if problems:
        for problem in problems[:SHOWN]:
            print("validate:", problem, file=sys.stderr)
        more = f" (the first {SHOWN} are above)" if len(problems) > SHOWN else ""
        sys.exit(f"validate: the data has {len(problems)} problems{more}")

    profile = {"rows": len(rows), "duplicates": duplicates, "classes": {str(k): seen[k] for k in sorted(seen)}}
    drover.output("profile").write_text(json.dumps(profile, indent=2) + "\n")
    digits.write(drover.output("clean"), rows)
    print(f"validate: {len(rows)} rows are good, the smallest class is {smallest:.1%}")


if __name__ == "__main__":
    main()
