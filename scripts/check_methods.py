#!/usr/bin/env python3
"""What each method trains, beside the libraries that define it: `heirloom inspect --method X --json` against the
published counts on ResNet-50, and against peft, LyCORIS, microsoft/LoRA's shapes and torchvision on four backbones.

    scripts/check_methods.py [--program build/heirloom] [--out docs/benchmarks/methods.md]

Where a library cannot take a network, or answers another number for a reason of its own, the table says so. Exit status 1
where a number of heirloom's is not the one expected. Needs peft and lycoris-lora (scripts/python_env.sh installs both).
"""
import argparse
import json
import logging
import subprocess
import sys
import warnings

import torch
import torchvision

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

MODELS = ["resnet50", "mobilenet_v2", "resnext50_32x4d", "densenet121"]
# Trained parameters of ResNet-50 without its head, and who counts the same.
METHODS = {
    "linear": (0, "torchvision"),
    "full": (23508032, "torchvision"),
    "norm": (53120, "torchvision"),
    "projection": (13385920, "torchvision"),
    "projection:scope=spatial": (1257664, "torchvision"),
    "projection:rank=4": (196364, "torchvision"),
    "lora:r=8": (635544, "peft"),
    "lora:r=8,spatial=1": (302080, "peft"),
    "dora:r=8": (662104, "peft"),
    "loha:r=8": (1271088, "peft"),
    "lokr:r=8": (63392, "peft"),
    "convlora:r=8": (901784, "microsoft/LoRA"),
    "piggyback": (23454912, "torchvision"),
    "atoms:m=9": (1737, "torchvision"),
    "ia3": (26560, "peft"),
    "bitfit": (26560, "torchvision"),
    "ssf": (53120, "torchvision"),
    "ssf:norms=1": (106240, "torchvision"),
    "residual-adapter": (1257472, "torchvision"),
    # Counted by hand for ResNet-50 alone: how they treat other widths and groups is heirloom's own.
    "partial": (4462592, ""),
    "partial:stages=1": (14964736, ""),
    "conv-adapter": (356848, ""),
    "conv-adapter:gamma=8": (199192, ""),
    "repadapter:r=8": (170688, ""),
    "l2sp": (23508032, "torchvision"),
    "bss": (23508032, "torchvision"),
}


def convolutions(model):
    return [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]


def head_of(model):
    return [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)][-1]


def is_spatial(m):
    return max(m.kernel_size) > 1


def from_shapes(model, method):
    """Counts that follow from the definition and torchvision's shapes alone."""
    layers = [m for _, m in convolutions(model)]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    head = sum(p.numel() for p in head_of(model)[1].parameters())
    pairs = lambda m: m.out_channels * m.in_channels // m.groups
    outputs = sum(m.out_channels for m in layers)
    features = sum(m.num_features for m in norms)
    everything = lambda: sum(p.numel() for p in model.parameters()) - head
    area = lambda m: m.kernel_size[0] * m.kernel_size[1]
    return {
        "linear": lambda: 0,
        "full": everything,
        "l2sp": everything,
        "bss": everything,
        "norm": lambda: 2 * features,
        "bitfit": lambda: features + sum(m.out_channels for m in layers if m.bias is not None),
        "ssf": lambda: 2 * outputs,
        "ssf:norms=1": lambda: 2 * outputs + 2 * features,
        # A 1x1 convolution with the groups of the one it stands beside.
        "residual-adapter": lambda: sum(pairs(m) for m in layers[1:] if is_spatial(m)),
        "projection": lambda: sum(map(pairs, layers)),
        "projection:scope=spatial": lambda: sum(pairs(m) for m in layers if is_spatial(m)),
        "projection:rank=4": lambda: sum(4 * (m.out_channels + m.in_channels // m.groups) for m in layers),
        "piggyback": lambda: sum(m.weight.numel() for m in layers),
        "atoms:m=9": lambda: sum(min(9, area(m)) * area(m) for m in layers if is_spatial(m)),
        # ConvLoRA of loralib, layers.py: A [r k, in k], B [out / groups k, r k].
        "convlora:r=8": lambda: sum(
            8 * m.kernel_size[0] ** 2 * (m.in_channels + m.out_channels // m.groups) for m in layers
        ),
    }[method]()


def grouped_lora(model, spatial, magnitude):
    """LoRA whose two factors are there once for each group."""
    layers = [m for _, m in convolutions(model)]
    layers = [m for m in layers[1 if spatial else 0 :] if not spatial or is_spatial(m)]
    count = 0
    for m in layers:
        columns = m.weight[0].numel()
        count += 8 * m.groups * columns + 8 * m.out_channels + (m.out_channels if magnitude else 0)
    return count


def peft_count(build, method):
    import peft

    model = build()
    names = [name for name, _ in convolutions(model)]
    if "spatial" in method:
        names = [name for name, m in convolutions(model)[1:] if is_spatial(m)]
    kind = method.split(":")[0]
    config = {
        "lora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=names),
        "dora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=names, use_dora=True),
        "loha": lambda: peft.LoHaConfig(r=8, alpha=8, target_modules=names),
        "lokr": lambda: peft.LoKrConfig(r=8, alpha=8, target_modules=names),
        "ia3": lambda: peft.IA3Config(target_modules=names, feedforward_modules=[]),
    }[kind]()
    model = peft.get_peft_model(model, config)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def lycoris_count(build, algorithm):
    import lycoris

    model = build()
    names = [name for name, _ in convolutions(model)]
    lycoris.LycorisNetwork.apply_preset({"target_module": [], "target_name": names})
    network = lycoris.create_lycoris(model, 1.0, linear_dim=8, linear_alpha=8, algo=algorithm)
    return sum(p.numel() for layer in network.loras for p in layer.parameters())


def reason(error):
    text = " ".join(str(error).split())
    return text[:117] + "..." if len(text) > 120 else text


def builder(name):
    """Networks without values, of which only shapes are asked."""

    def build():
        return getattr(torchvision.models, name)(weights=None)

    return build


def ours(program, model, method):
    command = [program, "inspect", "--model", model, "--method", method, "--json", "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    answer = json.loads(run.stdout)
    return answer["trainable_params"] - answer["head_params"]


def reference(name, model, method):
    """(expected, what the library says)"""
    kind, source = method.split(":")[0], METHODS[method][1]
    if source == "":
        return None, "-"
    if source != "peft":
        count = from_shapes(model, method)
        return count, f"{count:,}"
    try:
        with torch.device("meta"):
            count = peft_count(builder(name), method)
    except Exception as error:  # whatever the library raises is its answer
        return None, f"{type(error).__name__}: {reason(error)}"
    if kind in ("lora", "dora"):
        right = grouped_lora(model, "spatial" in method, kind == "dora")
        if count != right:
            return right, f"{count:,}, one A for all groups"
    return count, f"{count:,}"


def library_failures():
    """What peft's LoRA answers on convolutions that it does not compute rightly."""
    import peft

    rows = []
    for what, conv in [
        ("depthwise 3x3 (groups 16, r = 8)", torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)),
        ("grouped 3x3 (groups 4, r = 8), merge", torch.nn.Conv2d(16, 16, 3, padding=1, groups=4)),
        ("dilation 2, padding 2", torch.nn.Conv2d(16, 16, 3, padding=2, dilation=2)),
    ]:
        net = torch.nn.Sequential(conv)
        try:
            model = peft.get_peft_model(net, peft.LoraConfig(r=8, target_modules=["0"]))
            for parameter_name, p in model.named_parameters():
                if "lora" in parameter_name:
                    torch.nn.init.normal_(p, std=0.1)
            x = torch.randn(1, 16, 8, 8)
            y = model(x)
            merged = model.merge_and_unload()(x)
            difference = (y - merged).abs().max().item()
            rows.append((what, "fine" if difference < 1e-4 else f"merged differs by {difference:.2g}"))
        except Exception as error:
            rows.append((what, f"{type(error).__name__}: {reason(error)}"))
    return rows


def known(program):
    text = subprocess.run([program, "methods"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in text.splitlines() if line[:1] not in ("", " ")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    methods = known(arguments.program)
    rows, wrong = [], 0
    for name in MODELS:
        with torch.device("meta"):
            model = builder(name)()
        for method, (published, source) in METHODS.items():
            if method.split(":")[0] not in methods:
                print(f"check_methods: {method}: SKIPPED, heirloom has it not", file=sys.stderr)
                continue
            count = ours(arguments.program, name, method)
            expected, said = reference(name, model, method)
            kind = method.split(":")[0]
            if expected is None:
                expected = (
                    grouped_lora(model, "spatial" in method, kind == "dora") if kind in ("lora", "dora") else None
                )
            fine = (expected is None or count == expected) and (name != "resnet50" or count == published)
            wrong += not fine
            rows.append((name, method, f"{count:,}", source, said, "" if fine else "WRONG"))
            print(*rows[-1], sep="  ", flush=True)
        for algorithm in ("loha", "lokr"):
            try:
                said = f"{lycoris_count(builder(name), algorithm):,}"
            except Exception as error:
                said = f"{type(error).__name__}: {reason(error)}"
            count = ours(arguments.program, name, f"{algorithm}:r=8")
            rows.append((name, f"{algorithm}:r=8", f"{count:,}", "LyCORIS", said, ""))
            print(*rows[-1], sep="  ", flush=True)
    failures = library_failures()
    for row in failures:
        print(*row, sep="  ")
    if arguments.out:
        write(arguments.out, rows, failures)
    return 1 if wrong else 0


def write(path, rows, failures):
    import importlib.metadata as metadata

    version = ", ".join(f"{p} {metadata.version(p)}" for p in ("peft", "lycoris-lora", "torchvision"))
    with open(path, "w") as out:
        out.write("# Trained parameters of each method\n\n")
        out.write(f"Without the head, as `scripts/check_methods.py` prints them ({version}).\n\n")
        out.write("| model | method | heirloom | beside | says |\n|---|---|---:|---|---|\n")
        for name, method, count, source, said, mark in rows:
            out.write(f"| {name} | `{method}` | {' '.join([count, mark]).strip()} | {source} | {said} |\n")
        out.write("\nWhat peft's LoRA does on single convolutions that heirloom's tests cover\n")
        out.write("(`tests/method/test_weight_methods.c`):\n\n| convolution | peft |\n|---|---|\n")
        for what, said in failures:
            out.write(f"| {what} | {said} |\n")


if __name__ == "__main__":
    sys.exit(main())
