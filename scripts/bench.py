"""Training throughput of heirloom beside PyTorch: the two take turns on the same machine in the same run, and the ratio of
their medians is reported.

    bench.py [--device cpu|cuda] [--models ...] [--methods ...] [--batch-sizes ...] [--precisions ...] [--rounds N] [--compile]
             [--out NAME]

Writes docs/benchmarks/NAME.md and NAME.json, and prints the table."""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


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


def measure(args, model, method, batch, precision):
    common = ["--model", model, "--method", method, "--batch-size", str(batch), "--precision", precision, "--steps", str(args.steps),
              "--device", args.device]  # fmt: skip
    ours_command = [args.program, "bench", *common, "--image-size", str(args.image_size), "--json"]
    theirs_command = [args.python, "scripts/bench_pytorch.py", *common, "--image-size", str(args.image_size)]
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

    def rate(runs):
        return 1000 * batch / statistics.median(r["ms_median"] for r in runs)

    row = {
        "model": model,
        "method": method,
        "batch": batch,
        "precision": precision,
        "heirloom_images_per_second": rate(ours),
        "heirloom_peak_memory_bytes": max(r["peak_memory_bytes"] for r in ours),
        "rounds": {"heirloom": ours, "pytorch": theirs},
    }
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
        "torch": theirs[best][0]["torch"],
    }


def table(args, rows, date):
    title = "the CPU" if args.device == "cpu" else "a GPU"
    beside = f"PyTorch {rows[0]['torch']} channels-last ({' and '.join(rows[0]['rounds']['pytorch'])})" if "torch" in rows[0] else "alone"
    lines = [
        f"# Training throughput on {title}, {date}",
        "",
        f"{hardware(args)}, {args.rounds} rounds in turn, medians of {args.steps} steps, {args.image_size}x{args.image_size}, {beside}. "
        f"Images per second; peak memory {'of the whole process' if args.device == 'cpu' else 'on the device'}; the ratio is to the "
        "better mode of PyTorch.",
        "",
        "| model | method | batch | precision | heirloom | PyTorch | ratio | memory | PyTorch's |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        modes = r.get("pytorch_modes_images_per_second", {})
        lines.append(
            f"| {r['model']} | {r['method']} | {r['batch']} | {r['precision']} | {r['heirloom_images_per_second']:.1f} "
            f"| {', '.join(f'{rate:.1f} ({mode})' for mode, rate in modes.items()) or '-'} "
            f"| {format(r['ratio'], '.2f') if modes else '-'} | {r['heirloom_peak_memory_bytes'] / 2**20:.0f} MiB "
            f"| {format(r['pytorch_peak_memory_bytes'] / 2**20, '.0f') + ' MiB' if modes else '-'} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--methods", nargs="+", default=["projection"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well; the better mode counts")
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, torchvision and timm")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--out", default="cpu-training")
    args = parser.parse_args()

    rows = [
        measure(args, model, method, batch, precision)
        for model in args.models
        for method in args.methods
        for batch in args.batch_sizes
        for precision in args.precisions
    ]
    date = datetime.date.today().isoformat()
    text = table(args, rows, date)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / f"{args.out}.md").write_text(text)
    (args.folder / f"{args.out}.json").write_text(json.dumps({"date": date, "hardware": hardware(args), "rows": rows}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
