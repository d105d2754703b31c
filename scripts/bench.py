"""Training throughput of heirloom beside PyTorch: the two take turns on the same machine in the same run, from the same weights and
on the same images. The losses of their first steps have to agree; the ratio of their medians is reported, and how many times the
time of its convolutions alone a step of heirloom takes (the floor ratio).

    bench.py [--device cpu|cuda] [--rounds N] [--compile] [--out NAME]       the standard table
    bench.py [--device cpu|cuda] [--models ...] [--methods ...] [--norms ...] [--batch-sizes ...] [--precisions ...] [--rounds N]
             [--compile] [--out NAME]

What follows a + is for heirloom alone: linear+features is with kept features, which is every epoch but the first without
augmentation; full+winograd is with --winograd (fp32). Writes docs/benchmarks/NAME.md and NAME.json, and prints the table. Cells that --out has
from an earlier run stay with --add."""

import argparse
import datetime
import itertools
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What is measured where neither models nor methods are chosen: models, methods, norms, batch sizes, precisions.
ALL = ["mobilenet_v2", "efficientnet_lite0", "resnet18", "resnet50"]
BOTH = ["fp32", "bf16"]
STANDARD = [
    (ALL, ["projection"], ["frozen"], [16], BOTH),
    (["resnet50"], ["projection:scope=spatial"], ["frozen"], [16], BOTH),
    (["resnet18", "resnet50"], ["projection+winograd"], ["frozen"], [16], ["fp32"]),
    (["resnet50"], ["projection:scope=spatial+winograd"], ["frozen"], [16], ["fp32"]),
    (ALL, ["full"], ["full"], [16], BOTH),
    (["resnet18", "resnet50"], ["full+winograd"], ["full"], [16], ["fp32"]),
    (["resnet50"], ["norm"], ["affine"], [16], BOTH),
    (["resnet50"], ["linear", "linear+features"], ["frozen"], [16], BOTH),
    (["resnet50"], ["projection"], ["frozen"], [64], BOTH),
]


def timed(command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def hardware(args):
    if args.device == "cpu":
        return processor()
    devices = json.loads(subprocess.run([args.program, "devices", "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout)
    return next(d["model"] for d in devices["devices"] if d["name"].startswith("cuda"))


def start_weights(args, model):
    """A file of random weights that both sides start from."""
    path = args.work / f"{model}-{args.image_size}.pth"
    if not path.exists():
        args.work.mkdir(parents=True, exist_ok=True)
        subprocess.run([args.python, "scripts/bench_pytorch.py", "--model", model, "--image-size", str(args.image_size),
                        "--save-weights", path], cwd=ROOT, check=True)  # fmt: skip
    return path


def check_losses(row, ours, theirs):
    """The same network on the same images. Rounding to 16 bits in some fifty layers moves a loss of about 7 by up to a few percent,
    32 bits by less than a thousandth; dropout draws other masks on either side."""
    bound = 0.05 if row["precision"] in ("bf16", "fp16") or row["model"] == "mobilenet_v2" else 1e-3
    for mode, runs in theirs.items():
        for run in runs:
            if not abs(run["loss"] - ours[0]["loss"]) <= bound * abs(run["loss"]):
                sys.exit(f"bench: {row['model']} {row['method']} {row['norm']} {row['precision']}: the loss is {ours[0]['loss']}, "
                         f"PyTorch's ({mode}) {run['loss']}")  # fmt: skip


def measure(args, model, method, norm, batch, precision):
    plain, *extras = method.split("+")
    common = ["--model", model, "--method", plain, "--batch-size", str(batch), "--precision", precision, "--steps", str(args.steps),
              "--device", args.device, "--norm", norm, "--drop-path", str(args.drop_path)]  # fmt: skip
    if not args.alone:
        common += ["--weights", start_weights(args, model)]
    ours_command = [args.program, "bench", *common, "--image-size", str(args.image_size), "--json", "--quiet"]
    theirs_command = [args.python, "scripts/bench_pytorch.py", *common, "--image-size", str(args.image_size)]
    ours_command += [f"--{extra}" for extra in extras]
    modes = {} if args.alone else {"eager": theirs_command}
    if args.device != "cpu":
        ours_command.append("--autotune")
    if args.compile and not args.alone:
        modes["compile"] = [*theirs_command, "--compile"]
    ours, theirs = [], {mode: [] for mode in modes}
    for _ in range(args.rounds):
        ours.append(timed(ours_command))
        for mode, command in modes.items():
            theirs[mode].append(timed(command))
    floor = timed([*ours_command, "--floor"])

    def rate(runs):
        return 1000 * batch / statistics.median(r["ms_median"] for r in runs)

    row = {
        "model": model,
        "method": method,
        "norm": norm,
        "batch": batch,
        "precision": precision,
        "heirloom_images_per_second": rate(ours),
        "heirloom_ms": statistics.median(r["ms_median"] for r in ours),
        "heirloom_ms_p95": statistics.median(r["ms_p95"] for r in ours),
        "heirloom_peak_memory_bytes": max(r["peak_memory_bytes"] for r in ours),
        "floor_ratio": floor["floor_ratio"],
        "round_count": args.rounds,
        "steps": args.steps,
        "rounds": {"heirloom": ours, "pytorch": theirs},
    }
    check_losses(row, ours, theirs)
    if not theirs:
        return row
    best = max(theirs, key=lambda mode: rate(theirs[mode]))
    return {
        **row,
        "pytorch_images_per_second": rate(theirs[best]),
        "pytorch_modes_images_per_second": {mode: rate(runs) for mode, runs in theirs.items()},
        "pytorch_mode": best,
        "ratio": rate(ours) / rate(theirs[best]),
        "pytorch_peak_memory_bytes": max(r["peak_memory_bytes"] for r in theirs[best]),
        "memory_ratio": row["heirloom_peak_memory_bytes"] / max(r["peak_memory_bytes"] for r in theirs[best]),
        "torch": theirs[best][0]["torch"],
    }


def same_cell(a, b):
    return all(a[key] == b[key] for key in ("model", "method", "norm", "batch", "precision"))


def counts(rows):
    """How often was measured: the rows of one table may come from several runs."""
    rounds, steps = ({r[key] for r in rows} for key in ("round_count", "steps"))
    spread = lambda values: " or ".join(map(str, sorted(values)))  # noqa: E731
    return f"{spread(rounds)} rounds in turn, medians of {spread(steps)} steps"


def table(args, rows, date):
    title = "the CPU" if args.device == "cpu" else "a GPU"
    modes = sorted({mode for r in rows for mode in r["rounds"]["pytorch"]}, reverse=True)
    beside = f"PyTorch {rows[0]['torch']} channels-last ({', some rows also '.join(modes)})" if "torch" in rows[0] else "alone"
    lines = [
        f"# Training throughput on {title}, {date}",
        "",
        f"{hardware(args)}, {counts(rows)}, {args.image_size}x{args.image_size}, {beside}. "
        f"Peak memory {'of the whole process' if args.device == 'cpu' else 'on the device'}; ratios are to the better mode of PyTorch; "
        "the floor ratio is the time of a step over that of its convolutions alone.",
        "",
        "| model | method | norms | batch | precision | images/s | ms (p95) | PyTorch images/s | ratio | floor ratio | memory | of PyTorch's |",
        "|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        modes = r.get("pytorch_modes_images_per_second", {})
        lines.append(
            f"| {r['model']} | {r['method']} | {r['norm']} | {r['batch']} | {r['precision']} | {r['heirloom_images_per_second']:.1f} "
            f"| {r['heirloom_ms']:.0f} ({r['heirloom_ms_p95']:.0f}) "
            f"| {', '.join(f'{rate:.1f} ({mode})' for mode, rate in modes.items()) or '-'} "
            f"| {format(r['ratio'], '.2f') if modes else '-'} | {r['floor_ratio']:.2f} "
            f"| {r['heirloom_peak_memory_bytes'] / 2**20:.0f} MiB | {format(r['memory_ratio'], '.2f') if modes else '-'} |"
        )
    return "\n".join(lines) + "\n"


def save(args, rows):
    date = datetime.date.today().isoformat()
    (args.folder / f"{args.out}.md").write_text(table(args, rows, date))
    text = json.dumps({"date": date, "hardware": hardware(args), "rows": rows}, indent=1) + "\n"
    (args.folder / f"{args.out}.json").write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--norms", nargs="+", default=["frozen"], choices=["frozen", "affine", "update", "full"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--drop-path", type=float, default=0.0, help="stochastic depth on both sides; the losses agree where it is 0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well; the better mode counts")
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, torchvision and timm")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "bench", help="where weights to start from are kept")
    parser.add_argument("--add", action="store_true", help="keep the cells of an earlier run that this one does not measure")
    parser.add_argument("--out", default="cpu-training")
    args = parser.parse_args()

    old = args.folder / f"{args.out}.json"
    rows = json.loads(old.read_text())["rows"] if args.add and old.exists() else []
    chosen = (args.models or ["mobilenet_v2", "resnet50"], args.methods or ["projection"], args.norms, args.batch_sizes, args.precisions)
    plan = [chosen] if args.models or args.methods else [part for part in STANDARD if args.device == "cpu" or "+winograd" not in part[1][0]]
    args.folder.mkdir(parents=True, exist_ok=True)
    for cell in itertools.chain.from_iterable(itertools.product(*part) for part in plan):
        row = measure(args, *cell)
        place = next((i for i, r in enumerate(rows) if same_cell(r, row)), len(rows))
        rows[place : place + 1] = [row]
        print(table(args, [row], "").splitlines()[-1], flush=True)
        save(args, rows)  # what was measured stays, whatever ends the rest
    print((args.folder / f"{args.out}.md").read_text())


if __name__ == "__main__":
    main()
