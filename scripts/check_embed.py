#!/usr/bin/env python3
"""Compares feedforward networks and what `heirloom embed` makes of them, in PyTorch and in onnxruntime.

usage: check_embed.py [--program build/heirloom]      (needs torch, onnx, onnxruntime, safetensors)

Networks of torch.nn.Linear with random weights go through the program as state dicts (.safetensors, .pth) and as ONNX
files of both of PyTorch's exporters; the convolutions that come out are run by PyTorch (Conv2d modules, from the
.safetensors file) and by onnxruntime (from the .onnx file), over single windows and over larger images. Prints the
largest difference of each as a share of the largest output. Exit status 1 when one is beyond 1e-5.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

LIMIT = 1e-5
ACTS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "hardswish": nn.Hardswish}
# Channels, window, widths of the layers; an activation for each place between.
NETWORKS = [("relu", 784, (1, 1), (128, 32, 10)), ("gelu", 3, (5, 5), (64, 32, 16, 10)), ("silu", 2, (3, 4), (40, 7)),
            ("tanh", 3, (8, 8), (32, 16, 1)), ("sigmoid", 5, (2, 2), (24, 12)), ("hardswish", 1, (28, 28), (50, 10))]


def network(act, channels, window, widths):
    layers, inputs = [], channels * window[0] * window[1]
    for i, width in enumerate(widths):
        layers += [nn.Linear(inputs, width)] + ([ACTS[act]()] if i + 1 < len(widths) else [])
        inputs = width
    return nn.Sequential(*layers).eval()


def convolutions(path):
    """The file's layers as modules, by its own description."""
    with safe_open(path, "pt") as f:
        layers, modules = json.loads(f.metadata()["layers"]), []
        for layer in layers:
            if layer["op"] == "act":
                modules.append(ACTS[layer["act"]]())
                continue
            weight = f.get_tensor(layer["name"] + ".weight")
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(layer["kernel"]))
            conv.load_state_dict({"weight": weight, "bias": f.get_tensor(layer["name"] + ".bias")})
            modules.append(conv)
    return nn.Sequential(*modules)


def off(have, want):
    return float(np.abs(have - want).max() / np.abs(want).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/heirloom")
    program, worst = parser.parse_args().program, 0.0
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for act, channels, window, widths in NETWORKS:
            model, (kh, kw) = network(act, channels, window, widths), window
            image = torch.randn(2, channels, kh + 2, kw + 3) if kh * kw > 1 else torch.randn(4, channels, 1, 1)
            patches = nn.functional.unfold(image, window)  # [N, C kh kw, places]
            with torch.no_grad():
                want = model(patches.transpose(1, 2)).transpose(1, 2).reshape(len(image), widths[-1], image.shape[2] - kh + 1, -1)
            sources = {name: os.path.join(folder, "mlp." + name) for name in ("safetensors", "pth", "onnx")}
            save_file(model.state_dict(), sources["safetensors"])
            torch.save(model.state_dict(), sources["pth"])
            for kind in ("safetensors", "pth", "onnx", "dynamo"):
                path = sources.get(kind, sources["onnx"])
                if path.endswith("onnx"):
                    example = torch.randn(1, channels * kh * kw)
                    torch.onnx.export(model, (example,), path, dynamo=kind == "dynamo", verbose=False)
                shares = []
                for out in (os.path.join(folder, "conv.safetensors"), os.path.join(folder, "conv.onnx")):
                    line = [program, "embed", path, "--out", out, "--verify", "--quiet", "--json", "--threads", "1"]
                    line += [] if path.endswith("onnx") else ["--act", act]
                    line += ["--spatial", f"{kh}x{kw}"] if kh * kw > 1 else []
                    report = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
                    if out.endswith("onnx"):
                        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
                        have = session.run(None, {"input": image.numpy()})[0].reshape(want.shape)
                    else:
                        with torch.no_grad():
                            have = convolutions(out)(image).numpy()
                    shares += [off(have, want.numpy())]
                worst = max([worst] + shares)
                check = report["verify"]
                print(f"{act:9} {channels}x{kh}x{kw} {kind:11} PyTorch {shares[0]:.1e}  onnxruntime {shares[1]:.1e}  --verify outputs "
                      f"{check['output_share']:.1e} gradients {check['gradient_share']:.1e} of {check['tolerance']:.1e}")
    print(f"largest {worst:.1e}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
