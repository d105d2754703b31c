"""Prints the comparison of finished runs: demo_table.py RUN..."""

import json
import pathlib
import sys

rows = []
for folder in sys.argv[1:]:
    summary = json.loads((pathlib.Path(folder) / "summary.json").read_text())
    best = summary["best"]
    rows.append(
        (
            summary["method"],
            f"{summary['trainable_params']:,}",
            f"{100 * best['val_acc1']:.1f} %",
            f"{best['val_auroc']:.3f}" if "val_auroc" in best else "-",
            f"{summary['images_per_second']:.0f}",
            f"{summary['wall_seconds']:.0f} s",
            f"{summary['peak_memory_bytes'] / 2**20:.0f} MiB",
        )
    )
head = ("method", "trained parameters", "val accuracy", "val AUROC", "images/s", "time", "peak memory")
widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
for row in [head, tuple("-" * w for w in widths), *rows]:
    print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))
