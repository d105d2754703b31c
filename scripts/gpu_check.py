"""The stages of gpu_check.sh. Each adds what it found to gpu-report.json, from which gpu-report.md is written anew, so that stages
can also be run one by one on a machine that is lent for minutes.

    gpu_check.sh [--stages device build tests agreement losses demo sanitizer benchmark] [--out build/gpu]

Environment: BUILD (build), HEIRLOOM_PYTHON (a Python with torch, torchvision and timm; default: python3 if it has them).
Exit status 1 when a stage failed."""

import argparse
import concurrent.futures
import datetime
import itertools
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("BUILD", "build"))
PROGRAM = BUILD / "heirloom"
# A CUDA build; CUDA=double instead tries this script on a machine without a device (tests/cuda_double).
CUDA = os.environ.get("CUDA", "1")
SANITIZER_SECONDS = 150

# How far the loss of a step may be off, relative to that of the CPU in fp32. fp32: two implementations whose sums run in other
# orders, with the optimizer's steps in between. The others: twenty roundings to the type (2^-11 or 2^-8), as in the tests.
# The optimizer is SGD: Adam's first steps have full size whatever the gradient's, and turn rounding into steps.
LOSS_LIMITS = {"fp32": 2e-3, "tf32": 20 * 2**-11, "bf16": 20 * 2**-8, "fp16": 20 * 2**-11}


class Failed(Exception):
    """What to say of a stage that did not do what it should; `found` goes into the report all the same."""

    def __init__(self, message, found=None):
        super().__init__(message)
        self.found = found or {}


def run(command, log, **environment):
    """Exit status and output of a command; the output also goes to the file `log`."""
    with open(log, "wb") as out:
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    return done.returncode, pathlib.Path(log).read_text(errors="replace")


def heirloom(*arguments):
    done = subprocess.run([str(PROGRAM), *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failed(f"heirloom {' '.join(map(str, arguments))}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def make(target, log):
    architectures = []
    if CUDA == "1" and shutil.which("nvidia-smi"):
        out = subprocess.run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], stdout=subprocess.PIPE, text=True).stdout
        architectures = ["CUDA_ARCHS=" + " ".join(sorted({c.strip().replace(".", "") for c in out.split()}))]
    return run(["make", f"-j{os.cpu_count()}", f"CUDA={CUDA}", f"BUILD={BUILD}", *architectures, *target], log)


def stage_build(args):
    status, text = make(["all", "device-programs"], args.out / "build.log")
    if status != 0:
        raise Failed(f"the build failed: {last_line(text)}")
    return {"summary": "built without warnings"}


def stage_device(args):
    devices = heirloom("devices", "--json")["devices"]
    cuda = [d for d in devices if d["name"].startswith("cuda")]
    if not cuda:
        raise Failed("there is no CUDA device")
    smi = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        smi = last_line(subprocess.run(query, stdout=subprocess.PIPE, text=True).stdout)
    d = cuda[0]
    return {
        "summary": f"{d['model']}, compute capability {d['compute_capability']}, {d['memory_bytes'] / 2**30:.0f} GiB",
        "device": d,
        "nvidia_smi": smi,
    }


def stage_tests(args):
    status, text = make(["test-device"], args.out / "tests.log")
    lines = [line for line in text.splitlines() if line.startswith("FAILED") or "passed, " in line]
    found = {"summary": "; ".join(lines), "lines": lines}
    if status != 0:
        raise Failed(found["summary"] or last_line(text), found)
    return found


def stage_agreement(args):
    """Losses and gradients of every model and method beside the CPU backend's, fp32: rows of tests/cuda/test_cuda_agree.c."""
    report = args.out / "agreement.txt"
    report.unlink(missing_ok=True)
    program = BUILD / "device" / "tests" / "cuda" / "test_cuda_agree"
    status, text = run([program, "--jobs", 1], args.out / "agreement.log", HEIRLOOM_TEST_REPORT=str(report.resolve()))
    rows = []
    for line in report.read_text().splitlines() if report.exists() else []:
        model, method, norm, execution, loss, gradient, worst = line.split(maxsplit=6)
        rows.append({"model": model, "method": method, "norm": norm, "exec": execution, "loss": float(loss),
                     "gradient": float(gradient), "worst": worst})  # fmt: skip
    exact = [r for r in rows if r["norm"] in ("frozen", "affine", "default")]
    found = {"rows": rows}
    if exact:
        found["summary"] = (
            f"{len(rows)} comparisons; frozen norms: losses differ by at most {max(r['loss'] for r in exact):.1e}, "
            f"gradients by {max(r['gradient'] for r in exact):.1e} of their norm"
        )
    if status != 0 or not rows:
        raise Failed(f"{found.get('summary', 'nothing was compared')}; {last_line(text)}", found)
    return found


def write_png(path, side, colour, generator):
    rows = b"".join(
        b"\0" + bytes(min(255, max(0, round(generator.gauss(c, 30)))) for _ in range(side) for c in colour) for _ in range(side)
    )

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def make_images(folder):
    """Three classes of noise around a colour: enough to follow losses, which are not to say anything about accuracy."""
    generator = random.Random(1)
    for split, count in (("train", 24), ("val", 4)):
        for label, colour in enumerate([(170, 90, 90), (90, 170, 90), (90, 90, 170)]):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                write_png(place / f"{i}.png", 64, colour, generator)


def losses_of(args, data, model, method, device, precision):
    out = args.out / "runs" / f"{model}-{method}-{device}-{precision}"
    shutil.rmtree(out, ignore_errors=True)
    heirloom("train", "--model", model, "--data", data, "--method", method, "--out", out, "--device", device,
             "--precision", precision, "--image-size", 64, "--batch-size", 8, "--epochs", 1, "--max-steps", 8, "--log-every", 1,
             "--augment", "none", "--optimizer", "sgd", "--lr", 0.003, "--schedule", "constant", "--warmup-epochs", 0, "--seed", 1,
             "--norm", "frozen", "--threads", 4, "--json", "--quiet")  # fmt: skip
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [e["loss"] for e in events if e["event"] == "step"]


def stage_losses(args):
    """The loss of each of eight steps of training, CPU in fp32 beside CUDA in each precision."""
    data = args.out / "images"
    make_images(data)
    models = args.models or [m["name"] for m in heirloom("models", "--json")["models"]]
    methods = [m["name"] for m in heirloom("methods", "--json")["methods"]]

    def compare(case):
        model, method = case
        want, rows = losses_of(args, data, model, method, "cpu", "fp32"), []
        for precision in LOSS_LIMITS if model in (models[0], "resnet50") else ["fp32"]:
            got = losses_of(args, data, model, method, "cuda", precision)
            off = max((abs(a - b) / abs(a) for a, b in zip(want, got)), default=math.inf) if len(got) == len(want) else math.inf
            rows.append({"model": model, "method": method, "precision": precision, "steps": len(got), "off": off})
        return rows

    # Most of a run is its beginning; four at a time share the device.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        rows = sum(pool.map(compare, itertools.product(models, methods)), [])
    wrong = [f"{r['model']} {r['method']} {r['precision']}: off by {r['off']:.1e}" for r in rows if not r["off"] <= LOSS_LIMITS[r["precision"]]]
    worst = {p: max((r["off"] for r in rows if r["precision"] == p), default=0.0) for p in LOSS_LIMITS}
    found = {"rows": rows, "summary": "losses off by at most " + ", ".join(f"{v:.1e} in {p}" for p, v in worst.items())}
    if wrong:
        raise Failed("; ".join(wrong[:5]), found)
    return found


def stage_demo(args):
    status, text = run(["bash", "scripts/demo.sh"], args.out / "demo.log")
    if status != 0:
        return {"summary": f"SKIPPED: {last_line(text)}"}
    table = "\n".join(line for line in text.splitlines() if line.startswith("|") or "%" in line)
    return {"summary": "trained", "table": table or text[-2000:]}


def stage_sanitizer(args):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not pathlib.Path(tool).exists():
        return {"summary": "SKIPPED: there is no compute-sanitizer"}
    programs = sorted(p for p in (BUILD / "device" / "tests" / "kernels").glob("test_*") if p.suffix != ".d")
    wrong, rows = [], []
    for check in ("memcheck", "racecheck"):
        running = []
        for program in programs:
            command = ["timeout", str(SANITIZER_SECONDS), tool, "--tool", check, "--target-processes", "all", "--error-exitcode", "9",
                       str(program), "--jobs", "1"]  # fmt: skip
            log = args.out / f"{check}-{program.name}.log"
            running.append((program, log, subprocess.Popen(command, cwd=ROOT, stdout=open(log, "wb"), stderr=subprocess.STDOUT)))
        for program, log, process in running:
            status = process.wait()
            errors = [line for line in log.read_text(errors="replace").splitlines() if "ERROR SUMMARY" in line and " 0 errors" not in line]
            outcome = "clean" if status == 0 and not errors else "out of time" if status == 124 else "errors"
            rows.append({"tool": check, "program": program.name, "outcome": outcome, "status": status})
            if outcome == "errors":
                wrong.append(f"{check} {program.name}: {(errors or [f'exit status {status}'])[0]}")
    count = sum(r["outcome"] == "clean" for r in rows)
    found = {"rows": rows, "summary": f"{count} of {len(rows)} clean, {sum(r['outcome'] == 'out of time' for r in rows)} out of time"}
    if wrong:
        raise Failed("; ".join(wrong[:5]), found)
    return found


def python_with_torch():
    python = os.environ.get("HEIRLOOM_PYTHON", sys.executable)
    return python if subprocess.run([python, "-c", "import torch, torchvision, timm"], stderr=subprocess.DEVNULL).returncode == 0 else None


def stage_benchmark(args):
    python = python_with_torch()
    common = ["--device", "cuda", "--program", PROGRAM, "--folder", args.out, "--out", "cuda-training", "--rounds", 3, "--steps", 20]
    which = ["--models", *(args.models or ["resnet50", "mobilenet_v2"]), "--methods", "projection", "full",
             "--batch-sizes", args.batch_size, "--precisions", "bf16"]  # fmt: skip
    theirs = ["--python", python, "--compile"] if python else ["--alone"]
    status, text = run([sys.executable, "scripts/bench.py", *common, *which, *theirs], args.out / "benchmark.log")
    if status != 0:
        raise Failed(last_line(text))
    table = (args.out / "cuda-training.md").read_text()
    beside = "" if python else ", without PyTorch, which this machine does not have"
    return {"summary": f"see below{beside}", "table": table.split("\n", 2)[2]}


STAGES = {
    "build": stage_build,
    "device": stage_device,
    "tests": stage_tests,
    "agreement": stage_agreement,
    "losses": stage_losses,
    "sanitizer": stage_sanitizer,
    "benchmark": stage_benchmark,
    "demo": stage_demo,
}


def write_report(args, report):
    (args.out / "gpu-report.json").write_text(json.dumps(report, indent=1) + "\n")
    stages = report["stages"]
    device = stages.get("device", {}).get("summary", "unknown device")
    lines = [f"# heirloom on {device}, {report['date']}", "", "| stage | outcome | seconds | |", "|---|---|--:|---|"]
    for name in STAGES:
        if name in stages:
            s = stages[name]
            lines.append(f"| {name} | {s['outcome']} | {s['seconds']:.0f} | {s.get('summary', '')} |")
    for name in ("benchmark", "demo"):
        if "table" in stages.get(name, {}):
            lines += ["", f"## {name}", "", stages[name]["table"].strip()]
    if stages.get("losses", {}).get("rows"):
        lines += ["", "## losses of eight training steps, relative to the CPU in fp32", "", "| model | method | precision | largest difference |",
                  "|---|---|---|--:|"]  # fmt: skip
        lines += [f"| {r['model']} | {r['method']} | {r['precision']} | {r['off']:.1e} |" for r in stages["losses"]["rows"]]
    if stages.get("agreement", {}).get("rows"):
        lines += ["", "## one step in fp32 beside the CPU", "", "| model | method | norms | projection | losses | gradients | worst |",
                  "|---|---|---|---|--:|--:|---|"]  # fmt: skip
        lines += [
            f"| {r['model']} | {r['method']} | {r['norm']} | {r['exec']} | {r['loss']:.1e} | {r['gradient']:.1e} | {r['worst']} |"
            for r in stages["agreement"]["rows"]
        ]
    (args.out / "gpu-report.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--out", type=pathlib.Path, default=BUILD / "gpu", help="folder of the report, logs and runs")
    parser.add_argument("--models", nargs="+", help="for losses and benchmark [all; resnet50 and mobilenet_v2]")
    parser.add_argument("--batch-size", type=int, default=256, help="of the benchmark")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "gpu-report.json"
    report = json.loads(path.read_text()) if path.exists() else {"stages": {}}
    report["date"] = datetime.date.today().isoformat()
    failed = False
    for name in [s for s in STAGES if s in args.stages]:
        start = time.monotonic()
        try:
            found = {**STAGES[name](args), "outcome": "ok"}
            if found["summary"].startswith("SKIPPED"):
                found["outcome"] = "skipped"
        except Failed as failure:
            found = {**failure.found, "outcome": "FAILED", "summary": str(failure)}
            failed = True
        found["seconds"] = time.monotonic() - start
        report["stages"][name] = found
        write_report(args, report)
        print(f"{name}: {found['outcome']} ({found['seconds']:.0f} s): {found.get('summary', '')}", flush=True)
        if failed and name in ("build", "device"):
            break
    print(f"report: {args.out / 'gpu-report.md'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
