"""Training throughput of heirloom beside PyTorch: the two take turns on the same machine in the same run, and the ratio of
their medians is reported.

    bench.py [--models ...] [--methods ...] [--batch-sizes ...] [--precisions ...] [--rounds N] [--compile] [--out NAME]

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


def measure(args, model, method, batch, precision):
    common = ["--model", model, "--method", method, "--batch-size", str(batch), "--precision", precision, "--steps", str(args.steps)]
    ours_command = [args.program, "bench", *common, "--image-size", str(args.image_size), "--json"]
    theirs_command = [args.python, "scripts/bench_pytorch.py", *common, "--image-size", str(args.image_size)]
    modes = {"eager": theirs_command}
    if args.compile:
        modes["compile"] = [*theirs_command, "--compile"]
    ours, theirs = [], {mode: [] for mode in modes}
    for _ in range(args.rounds):
        ours.append(timed(ours_command))
        for mode, command in modes.items():
            theirs[mode].append(timed(command))

    def rate(runs):
        return 1000 * batch / statistics.median(r["ms_median"] for r in runs)

    best = max(theirs, key=lambda mode: rate(theirs[mode]))
    our_rate, their_rate = rate(ours), rate(theirs[best])
    return {
        "model": model,
        "method": method,
        "batch": batch,
        "precision": precision,
        "heirloom_images_per_second": our_rate,
        "pytorch_images_per_second": their_rate,
        "pytorch_mode": best,
        "ratio": our_rate / their_rate,
        "heirloom_peak_memory_bytes": max(r["peak_memory_bytes"] for r in ours),
        "pytorch_peak_memory_bytes": max(r["peak_memory_bytes"] for r in theirs[best]),
        "torch": theirs[best][0]["torch"],
        "rounds": {"heirloom": ours, "pytorch": theirs},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--methods", nargs="+", default=["projection"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well; the better mode counts")
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, torchvision and timm")
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
    lines = [
        f"# Training throughput on the CPU, {date}",
        "",
        f"{processor()}, {args.rounds} rounds in turn, medians of {args.steps} steps, {args.image_size}x{args.image_size}, "
        f"PyTorch {rows[0]['torch']} channels-last ({'the better of eager and torch.compile' if args.compile else 'eager'}). "
        "Images per second; peak memory of the whole process.",
        "",
        "| model | method | batch | precision | heirloom | PyTorch | ratio | memory | PyTorch's |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['method']} | {r['batch']} | {r['precision']} | {r['heirloom_images_per_second']:.1f} "
            f"| {r['pytorch_images_per_second']:.1f} ({r['pytorch_mode']}) | {r['ratio']:.2f} "
            f"| {r['heirloom_peak_memory_bytes'] / 2**20:.0f} MiB | {r['pytorch_peak_memory_bytes'] / 2**20:.0f} MiB |"
        )
    text = "\n".join(lines) + "\n"
    folder = ROOT / "docs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{args.out}.md").write_text(text)
    (folder / f"{args.out}.json").write_text(json.dumps({"date": date, "processor": processor(), "rows": rows}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
