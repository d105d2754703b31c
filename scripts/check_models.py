#!/usr/bin/env python3
"""Compares every model of the zoo with torchvision and timm, through the program as users call it.

usage: check_models.py [--program build/heirloom] [MODEL...]     (needs torch, torchvision, timm, safetensors, pillow)

For each model: a network with random weights is saved by torch.save and loaded by the program, and both classify the same
images, each with its own preprocessing. Then one training step is made from these weights (all gates, a fresh head), the
result is exported, PyTorch loads it with strict=True, and its logits are compared with those of the run. Prints a line
per model: the largest difference of logits, relative to the largest logit. Exit status 1 when one is beyond 1e-3.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from torchvision import transforms

import model_reference as reference

LIMIT = 1e-3
SIZES = [(640, 480), (333, 500)]
MODES = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}


def heirloom(program, *arguments):
    done = subprocess.run([program, *arguments, "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def make_images(folder):
    """Smooth random pictures, in the layout that the program trains on."""
    draw = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate(SIZES):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        for split in ("train", "val"):
            path = os.path.join(folder, split, "class%d" % i, "image.png")
            os.makedirs(os.path.dirname(path))
            coarse.resize((width, height), Image.BICUBIC).save(path)
        paths.append(path)
    return paths


def randomize(net):
    """Statistics and scales that differ from channel to channel; values that neither vanish nor explode."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.6, 1.0)
            module.bias.data.uniform_(-0.1, 0.3)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.6)
        elif isinstance(module, torch.nn.LayerNorm):
            module.weight.data.uniform_(0.6, 1.0)
            module.bias.data.uniform_(-0.1, 0.3)
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.weight.data.normal_(0.0, (2.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1)
    for name, parameter in net.named_parameters():
        if name.endswith("layer_scale"):
            parameter.data.uniform_(0.3, 0.9)


def classify(name, net, paths):
    p = reference.published(name)
    transform = transforms.Compose([transforms.Resize(p["resize"], MODES[p["interpolation"]]),
                                    transforms.CenterCrop(p["size"]), transforms.ToTensor(),
                                    transforms.Normalize(p["mean"], p["std"])])
    with torch.no_grad():
        return net.eval()(torch.stack([transform(Image.open(path)) for path in paths])).numpy()


def difference(have, want):
    if not (np.isfinite(have).all() and np.isfinite(want).all()):
        return float("inf")
    return float(np.abs(have - want).max() / np.abs(want).max())


def check(program, name, folder, paths):
    torch.manual_seed(0)
    weights, logits, run, exported = (os.path.join(folder, f) for f in ("w.pth", "l.safetensors", "run", "e.safetensors"))
    net = reference.create(name)
    randomize(net)
    torch.save(net.state_dict(), weights)
    heirloom(program, "predict", "--model", name, "--weights", weights, "--logits", logits, *paths)
    loaded = difference(load_file(logits)["logits"], classify(name, net, paths))

    del net
    subprocess.run(["rm", "-rf", run], check=True)
    heirloom(program, "train", "--model", name, "--weights", weights, "--data", folder, "--method", "projection",
             "--batch-size", "2", "--max-steps", "1", "--lr", "1e-3", "--precision", "fp32", "--augment", "none", "--out", run)
    heirloom(program, "predict", "--run", run, "--logits", logits, *paths)
    heirloom(program, "export", "--run", run, "--out", exported)
    net = reference.create(name, classes=len(SIZES))
    state = net.state_dict()  # kept for what it carries beside tensors: MNASNet asks for its version
    tensors = {key: torch.from_numpy(value) for key, value in load_file(exported).items()}
    if set(tensors) != set(state):
        raise RuntimeError("keys differ: %s" % sorted(set(tensors) ^ set(state))[:5])
    state.update(tensors)
    net.load_state_dict(state, strict=True)
    return loaded, difference(load_file(logits)["logits"], classify(name, net, paths))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of the zoo; all of them where none is named")
    options = parser.parse_args()
    zoo = [m["name"] for m in json.loads(heirloom(options.program, "models", "--json"))["models"]]
    if set(zoo) != set(reference.NAMES):
        sys.exit("check_models: model_reference.py and the program do not have the same models: %s"
                 % ", ".join(sorted(set(zoo) ^ set(reference.NAMES))))
    missed = 0
    print("%-22s %12s %12s" % ("model", "loaded", "exported"))
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(folder)
        for name in options.models or zoo:
            try:
                results = check(options.program, name, folder, paths)
                bad = max(results) > LIMIT
                print("%-22s %12.1e %12.1e%s" % (name, *results, "  MISSED" if bad else ""), flush=True)
            except (RuntimeError, KeyError) as error:
                bad = True
                print("%-22s %s" % (name, error), flush=True)
            missed += bad
    if missed:
        sys.exit("check_models: %d missed" % missed)


if __name__ == "__main__":
    main()
