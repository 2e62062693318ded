"""Measures a model on the test part, which nothing was learned or chosen by."""

import json
from typing import List

from digits import CLASSES
from model import Network, most, read_examples
from runtime import drover


def main() -> None:
    network = Network.load(drover.input("model"))
    test = read_examples(drover.input("features") / "test.jsonl")

    confusion = [[0] * CLASSES for _ in range(CLASSES)]  # a row for each true digit
    for x, label in test:
        confusion[label][most(network.activations(x)[-1])] += 1
    loss, accuracy = network.evaluate(test)
    classes = [of_class(confusion, label) for label in range(CLASSES)]
    worst = min(classes, key=lambda c: c["recall"])

    report = {"rows": len(test), "accuracy": accuracy, "loss": loss, "classes": classes, "confusion": confusion}
    folder = drover.output("report")
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.md").write_text(page(report))
    macro_f1 = sum(c["f1"] for c in classes) / CLASSES
    drover.log(step=0, accuracy=accuracy, loss=loss, macro_f1=macro_f1, worst_recall=worst["recall"], rows=len(test))
    print(f"evaluate: accuracy {accuracy:.4f} on {len(test)} rows; worst is digit {worst['digit']}, recall {worst['recall']:.4f}")


def of_class(confusion: List[List[int]], label: int) -> dict:
    right = confusion[label][label]
    true, said = sum(confusion[label]), sum(row[label] for row in confusion)
    recall, precision = right / max(true, 1), right / max(said, 1)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"digit": label, "rows": true, "recall": recall, "precision": precision, "f1": f1}


def page(report: dict) -> str:
    lines = [
        "# Evaluation",
        "",
        f"Accuracy {report['accuracy']:.4f}, loss {report['loss']:.4f}, on {report['rows']} digits that were held out.",
        "",
        "| digit | rows | recall | precision | F1 |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += ["| {digit} | {rows} | {recall:.3f} | {precision:.3f} | {f1:.3f} |".format(**c) for c in report["classes"]]
    lines += ["", "Rows are true digits, columns are predictions.", "", "| | " + " | ".join(map(str, range(CLASSES))) + " |"]
    lines += ["| --- " * (CLASSES + 1) + "|"]
    lines += [f"| **{label}** | " + " | ".join(map(str, row)) + " |" for label, row in enumerate(report["confusion"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
