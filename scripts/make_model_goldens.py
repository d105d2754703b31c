#!/usr/bin/env python3
"""Writes tests/fixtures/models/CASE.safetensors: what torchvision's and timm's networks compute.

usage: make_model_goldens.py [OUT_FOLDER [CASE...]]     (needs torch, torchvision, timm, safetensors)

Weights and images come from the formula of tests/support/formula.h, so only results are stored. PyTorch computes in
double on the float values that the formula gives. Each file holds

    counts        parameters with 1000 classes, weights of convolutions, gates of all and of spatial convolutions
    preprocess    size, resize, bicubic (1 or 0), mean, std
    image_size, classes, batch, smoothing
    state         hashes of "KEY TYPE SHAPE" for every tensor of the state dict, such as
                  "bn1.num_batches_tracked I64 []", in ascending order
and by mode
    forward/      as evaluated
    frozen/       norms on running statistics, with gradients
    batch/        norms on the statistics of the batch, which move
    smooth/       the same with SiLU for every activation, with gradients
these:
    images    (metadata) the name that the formula draws the images by
    logits    [N, classes]
    losses    [N]
    grads     a summary (below) of the gradient of every parameter, in the order of the names' bytes
    names     hash of those names
    stats     summaries of all running means and variances after one step, likewise
    stat_names
    value/NAME, dvalue/NAME   summaries of a layer's value and gradient, channels-last; NAME as in the graph

A summary is norm, sum, probe, first 8 values (formula.h).

One activation within rounding of a kink, out of a million, has the other slope in float and moves gradients by 1e-3
and more of their norm. So for frozen/ the images are those, of a few drawn, whose activations stay farthest from
kinks, and smooth/ has none.
"""
import os
import sys

import numpy as np
import timm
import torch
import torchvision
from safetensors.numpy import save_file
from torch import nn

FORMAT = "heirloom model golden 1"
BATCH, SMOOTHING = 2, 0.1

# case: (model, image size, classes, modes, layers). A layer is (name in the graph, module here).
MOBILENET = [("features.0.1.act", "features.0"), ("features.3.add", "features.3"), ("features.17.conv.3", "features.17"),
             ("features.18.1.act", "features.18")]
ALL = ("frozen", "batch", "smooth")
MARGIN, TRIES = 2e-6, 40


def resnet_layers(blocks):
    last = [("layer%d.%d.relu" % (s + 1, n - 1), "layer%d.%d" % (s + 1, n - 1)) for s, n in enumerate(blocks)]
    return [("maxpool", "maxpool")] + last


LITE = [("blocks.0.0.bn2", "blocks.0.0"), ("blocks.1.1.add", "blocks.1.1"), ("blocks.6.0.bn3", "blocks.6.0"),
        ("bn2.act", "bn2")]
CASES = {
    "mobilenet_v2": ("mobilenet_v2", 64, 17, ALL, MOBILENET),
    "mobilenet_v2_224": ("mobilenet_v2", 224, 1000, ("forward",), MOBILENET),
    "resnet18": ("resnet18", 64, 17, ALL, resnet_layers([2, 2, 2, 2])),
    "resnet34": ("resnet34", 65, 17, ("frozen",), resnet_layers([3, 4, 6, 3])),
    "resnet50": ("resnet50", 64, 17, ALL, resnet_layers([3, 4, 6, 3])),
    # Sizes whose SAME padding is odd in some layers and even in others.
    "efficientnet_lite0": ("efficientnet_lite0", 64, 17, ALL, LITE),
    "efficientnet_lite1": ("efficientnet_lite1", 43, 17, ("frozen",), LITE),
    "efficientnet_lite2": ("efficientnet_lite2", 41, 17, ("frozen",), LITE),
    "efficientnet_lite3": ("efficientnet_lite3", 44, 17, ("frozen",), LITE),
    "efficientnet_lite4": ("efficientnet_lite4", 39, 17, ("frozen",), LITE),
}


def fnv1a(name):
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def unit(name, count):
    x = np.uint32(fnv1a(name)) + np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)).astype(np.float64) * 2.0**-24


def values(name, low, high, count):
    return (low + (high - low) * unit(name, count)).astype(np.float32)


def bounds(name, tensor, norms):
    if tensor.ndim > 1:
        high = np.sqrt((6.0 if tensor.ndim == 4 else 3.0) / float(tensor[0].numel()))
        return -high, high
    module, kind = name.rsplit(".", 1)
    if module in norms:
        return {"weight": (0.6, 1.0), "bias": (-0.1, 0.3), "running_mean": (-0.2, 0.2), "running_var": (0.8, 1.6)}[kind]
    return -0.1, 0.1


def create(model, classes):
    if model.startswith("efficientnet_lite"):
        return timm.create_model("tf_" + model, num_classes=classes)
    return torchvision.models.get_model(model, weights=None, num_classes=classes)


def norm_names(net):
    return {name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}


def fill(net):
    norms = norm_names(net)
    state = {}
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = tensor
        else:
            drawn = values(name, *bounds(name, tensor, norms), tensor.numel())
            state[name] = torch.from_numpy(drawn.astype(np.float64)).reshape(tensor.shape)
    net.load_state_dict(state)


def summary(tensor):
    x = tensor.detach().double().reshape(-1).numpy()
    first = np.zeros(8)
    first[:min(8, x.size)] = x[:8]
    return np.concatenate([[np.sqrt((x * x).sum()), x.sum(), (x * (2.0 * unit("probe", x.size) - 1.0)).sum()], first])


def nhwc(tensor):
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def summaries(named):
    named = sorted(named, key=lambda item: item[0].encode())
    return (np.stack([summary(t) for _, t in named]).astype(np.float32),
            np.array([fnv1a(name) for name, _ in named], dtype=np.int64))


def images_of(name, size):
    x = values(name, -2.0, 2.0, BATCH * size * size * 3).astype(np.float64)
    return torch.from_numpy(x).reshape(BATCH, size, size, 3).permute(0, 3, 1, 2)


def prepare(model, classes, mode):
    """The network in double, in training but for what `mode` holds still."""
    net = create(model, classes).double()
    fill(net)
    net.train()
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                child.p = 0.0
            if isinstance(child, nn.BatchNorm2d) and mode in ("forward", "frozen"):
                child.eval()
            if isinstance(child, (nn.ReLU, nn.ReLU6)) and mode == "smooth":
                setattr(parent, name, nn.SiLU())
    return net


def margin(net, images):
    """The least distance of an activation's input from a kink, relative to the inputs' root mean square."""
    least = [float("inf")]

    def look(module, inputs):
        x = inputs[0].abs()
        distance = torch.minimum(x, (inputs[0] - 6.0).abs()) if isinstance(module, nn.ReLU6) else x
        least[0] = min(least[0], (distance.min() / x.square().mean().sqrt()).item())

    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, (nn.ReLU, nn.ReLU6))]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return least[0]


def choose_images(net, size):
    best = (-1.0, "")
    for attempt in range(TRIES):
        name = "images.%d" % attempt
        best = max(best, (margin(net, images_of(name, size)), name))
        if best[0] >= MARGIN:
            break
    return best


def run(model, size, classes, mode, layers):
    net = prepare(model, classes, mode)
    distance, name_of_images = choose_images(net, size) if mode == "frozen" else (0.0, "images")
    kept = {}

    def keep(name):
        def hook(_module, _inputs, output):
            output.retain_grad()
            kept[name] = output
        return hook

    modules = dict(net.named_modules())
    for name, module in layers:
        modules[module].register_forward_hook(keep(name))
    labels = torch.from_numpy((classes * unit("labels", BATCH)).astype(np.int64))
    logits = net(images_of(name_of_images, size))
    losses = nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="none")
    losses.mean().backward()
    out = {"logits": logits, "losses": losses}
    out = {key: value.detach().numpy().astype(np.float32) for key, value in out.items()}
    gradients = mode in ("frozen", "smooth")
    if gradients:
        out["grads"], out["names"] = summaries([(n, p.grad) for n, p in net.named_parameters()])
    if mode in ("batch", "smooth"):
        moved = [(n, b) for n, b in net.named_buffers() if not n.endswith("num_batches_tracked")]
        out["stats"], out["stat_names"] = summaries(moved)
    for name, tensor in kept.items():
        out["value/" + name] = summary(nhwc(tensor)).astype(np.float32)
        if gradients:
            out["dvalue/" + name] = summary(nhwc(tensor.grad)).astype(np.float32)
    print("  %s: images %s, %.1e from a kink, losses %s" % (mode, name_of_images, distance, out["losses"].tolist()),
          flush=True)
    return {"%s/%s" % (mode, key): value for key, value in out.items()}, {mode + "/images": name_of_images}


def counts(model):
    with torch.device("meta"):
        net = create(model, 1000)
    convs = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    gates = [w.shape[0] * w.shape[1] for w in convs]
    spatial = [w.shape[0] * w.shape[1] for w in convs if w[0, 0].numel() > 1]
    return np.array([sum(p.numel() for p in net.parameters()), sum(w.numel() for w in convs), sum(gates), sum(spatial)])


def state_hashes(model, classes):
    with torch.device("meta"):
        state = create(model, classes).state_dict()
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    return np.array(sorted(fnv1a("%s %s %s" % (key, kinds[t.dtype], list(t.shape))) for key, t in state.items()))


def preprocess(model):
    """The evaluation transform published with the weights, and the weights file's name."""
    if model.startswith("efficientnet_lite"):
        cfg = timm.models.get_pretrained_cfg("tf_" + model)
        size = cfg.input_size[1]
        row = [size, int(size / cfg.crop_pct), cfg.interpolation == "bicubic", *cfg.mean, *cfg.std]
        url = cfg.url
    else:
        weights = torchvision.models.get_model_weights(model).IMAGENET1K_V1
        t = weights.transforms()
        row = [t.crop_size[0], t.resize_size[0], t.interpolation.value == "bicubic", *t.mean, *t.std]
        url = weights.url
    return np.array(row, dtype=np.float32), url.rsplit("/", 1)[1]


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/models"
    os.makedirs(folder, exist_ok=True)
    for case in sys.argv[2:] or CASES:
        model, size, classes, modes, layers = CASES[case]
        row, file = preprocess(model)
        tensors = {
            "counts": counts(model),
            "state": state_hashes(model, classes),
            "preprocess": row,
            "image_size": np.array([size]),
            "classes": np.array([classes]),
            "batch": np.array([BATCH]),
            "smoothing": np.array([SMOOTHING], dtype=np.float32),
        }
        print(case, tensors["counts"].tolist(), row.tolist(), flush=True)
        images = {}
        for mode in modes:
            results, names = run(model, size, classes, mode, layers)
            tensors.update(results)
            images.update(names)
        save_file(tensors, os.path.join(folder, case + ".safetensors"), metadata={
            "format": FORMAT, "model": model, "weights_file": file, "seed": "none, formula.h",
            "torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0],
            "timm": timm.__version__, **images})


if __name__ == "__main__":
    main()
