#!/usr/bin/env python3
"""Compares every model of the zoo with torchvision and timm, mostly through the program as users call it.

usage: check_models.py [--parts PART,...] [--again] [NAME...]      (`make check-models CHECK='...'` builds and runs it)

NAME is a model or what the names of several begin with (`check_models.py resnet`); all of them where none is given. What has
been measured is kept in --results and not measured again (--again does). Prints a line per model; exit status 1 when one
missed a limit. --markdown FILE also writes the results of all models as a table. The parts, each from random weights:

logits     The program loads what torch.save wrote and classifies images, each side with its own preprocessing: largest
           difference of logits, relative to the largest logit.
gradients  Of the loss with respect to every parameter, against PyTorch in double, norms on running statistics:
           the largest difference of a parameter's gradient, relative to its norm. Activations near a kink fall to
           either side of it by rounding, and one in a million moves gradients by more than the limit, whoever computes
           them; so do two values within rounding of each other in a window of a max pool. So twice: with the network's
           own activations, and with SiLU in place of those with kinks, which leaves kinks to max pools alone; each on up to
           TRIES batches of images, of which one must agree: a wrong gradient is wrong for all of them, a kink is met by
           chance. On images as small as the network takes.
step       One training step with projection at batch 8 and the model's own image size: peak memory of the process.
           Its result is exported, PyTorch loads it with strict=True, and the logits are compared with the run's.
timm       Where timm has the network under other names: its state dict is loaded by the program, and what the program
           exports with --keys timm is loaded by timm with strict=True; logits are compared both ways.
channels   Grey images and RGBA ones: weights for RGB with --in-channels 1 and 4, against the network whose first
           convolution timm has adapted; and, where timm has the network, what a run exports, loaded with strict=True into
           timm.create_model(..., in_chans=1) and 4. The larger difference of the two.
"""
import argparse
import contextlib
import copy
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import nn
from torchvision import transforms

import make_model_goldens as goldens
import model_reference as reference

LIMIT, PEAK_LIMIT = 1e-3, 16 * 2**30
TRIES = 6
TRAIN, VAL = 8, 2
SIZES = [(640, 480), (333, 500)]
MODES = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}
# Images for gradients and for names: the least that the network takes, else these.
SMALLEST = {"alexnet": 95, "inception_v3": 79}
SMALL = 64
PARTS = {"logits": ["logits"], "gradients": ["gradient", "smooth"], "step": ["exported", "peak"], "timm": ["from_timm", "to_timm"], "channels": ["grey", "rgba"]}


def heirloom(options, *arguments):
    done = subprocess.run([options.program, *arguments, "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or "the program ended with status %d" % done.returncode)
    return done.stdout


def make_images(folder):
    """Smooth random pictures, in the layout that the program trains on; those of val are returned."""
    draw = np.random.default_rng(0)
    paths = []
    for i in range(TRAIN + VAL):
        split = "train" if i < TRAIN else "val"
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = os.path.join(folder, split, "class%d" % (i % 2), "image%d.png" % i)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        coarse.resize(SIZES[i % 2], Image.BICUBIC).save(path)
        if split == "val":
            paths.append(path)
    return paths


def make_transparent(folder):
    """The same with an alpha channel, for networks of four channels."""
    draw = np.random.default_rng(1)
    for i in range(TRAIN + VAL):
        split = "train" if i < TRAIN else "val"
        source = os.path.join(folder, split, "class%d" % (i % 2), "image%d.png" % i)
        path = os.path.join(folder, "alpha", os.path.relpath(source, folder))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with Image.open(source) as image:
            alpha = Image.fromarray(draw.integers(0, 256, (12, 16), dtype=np.uint8)).resize(image.size, Image.BICUBIC)
            image.putalpha(alpha)
            image.save(path)
    return os.path.join(folder, "alpha")


def smallest(name):
    return next((size for prefix, size in SMALLEST.items() if name.startswith(prefix)), SMALL)


def fresh(net):
    """Memory for a network without values, and these: statistics and scales that differ from channel to channel, values
    that neither vanish nor explode."""
    torch.manual_seed(0)
    net = net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.6, 1.0)
            module.bias.data.uniform_(-0.1, 0.3)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.6)
            module.num_batches_tracked.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.uniform_(0.6, 1.0)
            module.bias.data.uniform_(-0.1, 0.3)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data.normal_(0.0, (2.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1)
    for name, parameter in net.named_parameters():
        if name.endswith(("layer_scale", "gamma")):
            parameter.data.uniform_(0.3, 0.9)
    return net


def classify(name, net, paths, size=None, channels=3):
    p = reference.published(name)
    mean, std = ([sum(p[key]) / 3] if channels == 1 else [*p[key], 0.5][:channels] for key in ("mean", "std"))
    resize = p["resize"] if size is None else (size * p["resize"] + p["size"] // 2) // p["size"]
    transform = transforms.Compose([transforms.Resize(resize, MODES[p["interpolation"]]),
                                    transforms.CenterCrop(size or p["size"]), transforms.ToTensor(),
                                    transforms.Normalize(mean, std)])
    with torch.no_grad():
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        return net.eval()(torch.stack([transform(Image.open(path).convert(mode)) for path in paths])).numpy()


def difference(have, want):
    if not (np.isfinite(have).all() and np.isfinite(want).all()):
        return float("inf")
    return float(np.abs(have - want).max() / np.abs(want).max())


def predict(options, folder, paths, *model):
    logits = os.path.join(folder, "logits.safetensors")
    heirloom(options, "predict", *model, "--logits", logits, *paths)
    return load_file(logits)["logits"]


def load_strictly(net, path):
    state = net.state_dict()  # kept for what it carries beside tensors: MNASNet asks for its version
    tensors = {key: torch.from_numpy(value) for key, value in load_file(path).items()}
    if set(tensors) != set(state):
        raise RuntimeError("keys differ: %s" % sorted(set(tensors) ^ set(state))[:5])
    state.update(tensors)
    net.to_empty(device="cpu").load_state_dict(state, strict=True)
    return net


def check_logits(options, name, folder, paths):
    weights = os.path.join(folder, "weights.pth")
    net = fresh(reference.meta(name))
    torch.save(net.state_dict(), weights)
    have = predict(options, folder, paths, "--model", name, "--weights", weights)
    return {"logits": difference(have, classify(name, net, paths))}


def prepare(net, smooth):
    """In double, in training but for norms and for what is dropped at random."""
    net = net.double().train()
    for module in net.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
        if hasattr(module, "inplace"):
            module.inplace = False
    if smooth:
        goldens.smoothen(net)
    return net


def compare_gradients(options, name, folder, net, seed, smooth):
    """The largest difference of a gradient, and of the losses."""
    size, draw = smallest(name), np.random.default_rng(seed)
    images = draw.uniform(-2.0, 2.0, (2, size, size, 3)).astype(np.float32)
    labels = draw.integers(0, 1000, 2)
    files = [os.path.join(folder, f) for f in ("weights.pth", "input.safetensors", "output.safetensors")]
    save_file({"images": images, "labels": labels}, files[1])
    done = subprocess.run([options.gradients, name, *files, *(["smooth"] if smooth else [])], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    have = load_file(files[2])
    net.zero_grad()
    with goldens.relu_is(nn.functional.silu if smooth else lambda x: x.clamp(min=0.0)):
        logits = net(torch.from_numpy(images).double().permute(0, 3, 1, 2))
    losses = nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
    losses.mean().backward()
    worst = difference(have["losses"], losses.detach().numpy())
    missing = {n for n, _ in net.named_parameters()} ^ (set(have) - {"logits", "losses"})
    if missing:
        raise RuntimeError("these have a gradient on one side alone: %s" % sorted(missing)[:5])
    for key, parameter in net.named_parameters():
        want = parameter.grad.numpy()
        error, norm = np.linalg.norm(have[key] - want), np.linalg.norm(want)
        if not np.isfinite(error):
            return float("inf")
        if error > 0.0:  # behind a channel that is zero for all images both sides have nothing at all
            worst = max(worst, float(error / norm) if norm > 0.0 else float("inf"))
    return worst


def check_gradients(options, name, folder, _paths):
    net = fresh(reference.meta(name))
    torch.save(net.state_dict(), os.path.join(folder, "weights.pth"))
    result = {}
    for key, smooth in (("gradient", False), ("smooth", True)):
        net, best = prepare(net, smooth), float("inf")
        for seed in range(TRIES):
            best = min(best, compare_gradients(options, name, folder, net, seed, smooth))
            if best <= LIMIT:
                break
        result[key] = best
    return result


def check_step(options, name, folder, paths):
    weights, run, exported = (os.path.join(folder, f) for f in ("weights.pth", "run", "exported.safetensors"))
    subprocess.run(["rm", "-rf", run], check=True)
    torch.save(fresh(reference.meta(name)).state_dict(), weights)
    heirloom(options, "train", "--model", name, "--weights", weights, "--data", folder, "--method", "projection",
             "--batch-size", str(TRAIN), "--max-steps", "1", "--lr", "1e-3", "--augment", "none", "--out", run)
    with open(os.path.join(run, "summary.json"), encoding="utf-8") as file:
        peak = json.load(file)["peak_memory_bytes"]
    have = predict(options, folder, paths, "--run", run)
    heirloom(options, "export", "--run", run, "--out", exported)
    net = load_strictly(reference.meta(name, classes=2), exported)
    return {"exported": difference(have, classify(name, net, paths)), "peak": peak}


def check_timm(options, name, folder, paths):
    if reference.timm_twin(name) is None:
        return {"from_timm": None, "to_timm": None}
    weights, run, exported = (os.path.join(folder, f) for f in ("weights.pth", "run", "exported.safetensors"))
    size = smallest(name)
    subprocess.run(["rm", "-rf", run], check=True)
    net = fresh(reference.timm_meta(name, 1000))
    torch.save(net.state_dict(), weights)
    model = ["--model", name, "--image-size", str(size)]
    have = predict(options, folder, paths, *model, "--weights", weights)
    from_timm = difference(have, classify(name, net, paths, size))
    del net
    heirloom(options, "train", *model, "--weights", weights, "--data", folder, "--method", "linear", "--batch-size", str(TRAIN),
             "--max-steps", "1", "--lr", "1e-3", "--augment", "none", "--out", run)
    have = predict(options, folder, paths, "--run", run)
    heirloom(options, "export", "--run", run, "--out", exported, "--keys", "timm")
    net = load_strictly(reference.timm_meta(name, 2), exported)
    return {"from_timm": from_timm, "to_timm": difference(have, classify(name, net, paths, size))}


def check_channels(options, name, folder, paths):
    weights, run, exported = (os.path.join(folder, f) for f in ("weights.pth", "run", "exported.safetensors"))
    size, result = smallest(name), {}
    net = fresh(reference.meta(name))
    torch.save(net.state_dict(), weights)
    alpha = make_transparent(folder)
    for channels, key, data in ((1, "grey", folder), (4, "rgba", alpha)):
        images = [path.replace(folder, data) for path in paths]
        model = ["--model", name, "--image-size", str(size), "--in-channels", str(channels), "--weights", weights]
        want = classify(name, reference.adapted(copy.deepcopy(net), channels), images, size, channels)
        result[key] = difference(predict(options, folder, images, *model), want)
        if reference.timm_twin(name) is None:
            continue
        subprocess.run(["rm", "-rf", run], check=True)
        heirloom(options, "train", *model, "--data", data, "--method", "linear", "--batch-size", str(TRAIN), "--max-steps", "1",
                 "--lr", "1e-3", "--augment", "none", "--out", run)
        have = predict(options, folder, images, "--run", run)
        heirloom(options, "export", "--run", run, "--out", exported, "--keys", "timm")
        other = load_strictly(reference.timm_meta(name, 2, channels), exported)
        result[key] = max(result[key], difference(have, classify(name, other, images, size, channels)))
    return result


CHECKS = {"logits": check_logits, "gradients": check_gradients, "step": check_step, "timm": check_timm,
          "channels": check_channels}
COLUMNS = ["logits", "gradient", "smooth", "exported", "from_timm", "to_timm", "grey", "rgba", "peak"]


def misses(result):
    return [key for key, value in result.items()
            if value is not None and not value <= (PEAK_LIMIT if key == "peak" else LIMIT)]


def shown(key, result):
    value = result.get(key)
    return "-" if value is None else "%.2f GiB" % (value / 2**30) if key == "peak" else "%.1e" % value


class Results:
    """What has been measured, in a file that is whole after every model."""

    def __init__(self, path):
        self.path, self.rows = path, {}
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            self.rows = json.load(file)

    def put(self, name, result):
        self.rows.setdefault(name, {}).update(result)
        with open(self.path + ".part", "w", encoding="utf-8") as file:
            json.dump(self.rows, file, indent=1)
        os.replace(self.path + ".part", self.path)


MARKDOWN = """# Every model beside PyTorch's

What `make check-models` measured (scripts/check_models.py says how), PyTorch %s, torchvision %s, timm %s. Differences are relative; each has to be
below 1e-3. Weights are random, with norms whose statistics and scales differ from channel to channel.

- *logits*: of the same images, each side with its own decoding, resizing and preprocessing
- *gradients*: of the loss with respect to every parameter, the worst of them, with the network's activations; *smooth*: with SiLU in place of those with kinks.
  Two images of the least size that the network takes, in double there; of up to six draws the first whose differences are below the limit, since a kink
  within rounding (of an activation, or of two values in a window of a max pool) moves gradients by more, whoever computes them
- *exported*: logits of a run's network and of its export in PyTorch, loaded with `strict=True`
- *from timm*, *to timm*: logits of timm's network, its state dict loaded here, and of timm's network with what `--keys timm` exports
- *grey*, *RGBA*: logits with `--in-channels 1` and `4` from weights for RGB, the network's first convolution adapted by timm; and of exports, loaded
  into `timm.create_model(..., in_chans=1)` and `4` with `strict=True`, where timm has the network
- *memory*: at the peak of a training step with projection, batch 8, images of the model's own size, in the default precision

A dash: not measured yet, or timm has no such network (the two columns of timm). Parameters with 1000 classes; gates under projection; multiply-accumulates for one image.

"""


def write_markdown(path, zoo, rows):
    lines = ["| model | parameters | gates | MACs | input | top-1, % | logits | gradients | smooth | exported | from timm | to timm | grey | RGBA | memory |",
             "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for m in zoo:
        top1 = "-" if m["top1"] is None else "%.2f" % m["top1"]
        lines.append("| %s | %s | %s | %.2f G | %d | %s | %s |" % (
            m["name"], format(m["params"], ","), format(m["gates"], ","), m["macs"] / 1e9, m["image_size"], top1,
            " | ".join(shown(key, rows.get(m["name"], {})) for key in COLUMNS)))
    versions = tuple(v.split("+")[0] for v in (torch.__version__, torchvision.__version__, timm.__version__))
    with open(path, "w", encoding="utf-8") as file:
        file.write(MARKDOWN % versions + "\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--gradients", default="build/tests/models/gradients", help="built by `make %(default)s`")
    parser.add_argument("--results", default="build/check_models.json")
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    parser.add_argument("--again", action="store_true", help="measure also what has been measured")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    zoo = json.loads(heirloom(options, "models", "--json"))["models"]
    known = [m["name"] for m in zoo]
    if set(known) != set(reference.NAMES):
        sys.exit("check_models: model_reference.py and the program do not have the same models: %s"
                 % ", ".join(sorted(set(known) ^ set(reference.NAMES))))
    chosen = [n for n in known if not options.names or any(n.startswith(start) for start in options.names)]
    if not chosen:
        sys.exit("check_models: no model's name begins so (`heirloom models` lists them)")
    results, missed = Results(options.results), 0
    print("%-20s %s" % ("model", " ".join("%9s" % c for c in COLUMNS)))
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(folder)
        for name in chosen:
            trouble = ""
            for part in options.parts.split(","):
                if not options.again and all(key in results.rows.get(name, {}) for key in PARTS[part]):
                    continue
                try:
                    results.put(name, CHECKS[part](options, name, folder, paths))
                except (RuntimeError, KeyError, OSError) as error:
                    trouble += "  %s: %s" % (part, error)
            row = results.rows.get(name, {})
            bad = misses(row)
            trouble += "  MISSED: " + ", ".join(bad) if bad else ""
            missed += trouble != ""
            print("%-20s %s%s" % (name, " ".join("%9s" % shown(c, row) for c in COLUMNS), trouble), flush=True)
    if options.markdown:
        write_markdown(options.markdown, zoo, results.rows)
    if missed:
        sys.exit("check_models: %d missed" % missed)


if __name__ == "__main__":
    main()
