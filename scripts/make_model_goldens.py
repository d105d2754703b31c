#!/usr/bin/env python3
"""Writes tests/fixtures/models/CASE.safetensors: what torchvision's and timm's networks compute.

usage: make_model_goldens.py [OUT_FOLDER [CASE...]]     (needs torch, torchvision, timm, safetensors)

Also OUT_FOLDER/zoo.txt: for every model of the zoo how many parameters it has, the keys of its state dict, and what is
published with its weights; CASE "zoo" writes it alone.

Weights and images come from the formula of tests/support/formula.h, so only results are stored. PyTorch computes in
double on the float values that the formula gives. Each file holds

    image_size, classes, batch, smoothing, width
and by mode
    forward/      as evaluated
    frozen/       norms on running statistics, with gradients
    batch/        norms on the statistics of the batch, which move
    smooth/       the same with SiLU for every activation that has kinks, with gradients
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
import contextlib
import os
import sys

import numpy as np
import timm
import torch
import torchvision
from safetensors.numpy import save_file
from timm.models import adapt_input_conv
from torch import nn

import model_reference as reference

FORMAT = "heirloom model golden 1"
BATCH, SMOOTHING, TABLE_CLASSES = 2, 0.1, 17

# case: (model, image size, classes, modes, layers). A layer is (name in the graph, module here).
MOBILENET = [("features.0.1.act", "features.0"), ("features.3.add", "features.3"), ("features.17.conv.3", "features.17"),
             ("features.18.1.act", "features.18")]
ALL = ("frozen", "batch", "smooth")
NORMED = ("frozen", "batch")
MARGIN, TRIES = 2e-6, 40


def resnet_layers(blocks):
    last = [("layer%d.%d.relu" % (s + 1, n - 1), "layer%d.%d" % (s + 1, n - 1)) for s, n in enumerate(blocks)]
    return [("maxpool", "maxpool")] + last


LITE = [("blocks.0.0.bn2", "blocks.0.0"), ("blocks.1.1.add", "blocks.1.1"), ("blocks.6.0.bn3", "blocks.6.0"),
        ("bn2.act", "bn2")]
REGNET = [("stem.1.act", "stem"), ("trunk_output.block1.block1-0.activation", "trunk_output.block1"),
          ("trunk_output.block2.block2-1.activation", "trunk_output.block2.block2-1"),
          ("trunk_output.block4.block4-5.activation", "trunk_output.block4.block4-5"),
          ("trunk_output.block4.block4-1.f.b.1.act", "trunk_output.block4.block4-1.f.b")]
VGG = [("features.3", "features.3"), ("features.28", "features.28"), ("classifier.1", "classifier.1"),
       ("classifier.4", "classifier.4")]
INCEPTION = [("maxpool1", "maxpool1"), ("Mixed_5d.concat", "Mixed_5d"), ("Mixed_6a.concat", "Mixed_6a"),
             ("Mixed_7c.concat", "Mixed_7c")]
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
    "resnext50_32x4d": ("resnext50_32x4d", 48, 17, NORMED, resnet_layers([3, 4, 6, 3])),
    "seresnet50": ("seresnet50", 64, 17, ("frozen", "smooth"), resnet_layers([3, 4, 6, 3])),
    "seresnet18": ("seresnet18", 48, 17, NORMED, resnet_layers([2, 2, 2, 2])),
    # An eighth of the channels, for the sake of the classifiers.
    "vgg11_bn": ("vgg11_bn", 224, 17, ALL, VGG, 0.125),
    # Sizes whose last map does not divide into the cells that the classifier reads: 3x3 into 7x7, 4x4 into 6x6.
    "vgg11_bn_96": ("vgg11_bn", 96, 17, ("frozen",), VGG, 0.125),
    "alexnet": ("alexnet", 159, 17, ("frozen",), [
        ("features.2", "features.2"), ("features.12", "features.12"), ("avgpool", "avgpool"), ("classifier.2", "classifier.2"),
        ("classifier.5", "classifier.5")], 0.125),
    "squeezenet1_1": ("squeezenet1_1", 65, 17, ("frozen",), [("features.2", "features.2"), ("features.5", "features.5"),
                                                     ("features.12.concat", "features.12")]),
    "densenet121": ("densenet121", 64, 17, ALL, [
        ("features.pool0", "features.pool0"), ("features.denseblock1.denselayer6.concat", "features.denseblock1"),
        ("features.transition2.pool", "features.transition2"), ("features.norm5", "features.norm5")]),
    "mobilenet_v3_small": ("mobilenet_v3_small", 64, 17, ALL, [
        ("features.0.1.act", "features.0"), ("features.1.block.1.mul", "features.1.block.1"),
        ("features.3.add", "features.3"), ("features.12.1.act", "features.12"), ("classifier.1", "classifier.1")]),
    "mnasnet0_5": ("mnasnet0_5", 64, 17, ALL, [
        ("layers.7", "layers.7"), ("layers.8.1.add", "layers.8.1"), ("layers.10.2.add", "layers.10"),
        ("layers.15.act", "layers.16")]),
    "efficientnet_b0": ("efficientnet_b0", 64, 17, NORMED, [
        ("features.1.0.block.1.mul", "features.1.0.block.1"), ("features.2.1.add", "features.2"),
        ("features.5.2.add", "features.5"), ("features.8.1.act", "features.8")]),
    "tf_efficientnet_b0": ("tf_efficientnet_b0", 53, 17, NORMED, [("blocks.1.0.se.mul", "blocks.1.0.se"), *LITE]),
    "efficientnet_v2_s": ("efficientnet_v2_s", 33, 17, NORMED, [
        ("features.1.1.add", "features.1"), ("features.2.0.block.1.1", "features.2.0"), ("features.3.3.add", "features.3"),
        ("features.4.0.block.2.mul", "features.4.0.block.2"), ("features.7.1.act", "features.7")]),
    "regnet_x_400mf": ("regnet_x_400mf", 48, 17, ("frozen",), REGNET),
    "googlenet": ("googlenet", 65, 17, NORMED, [
        ("maxpool2", "maxpool2"), ("inception3b.concat", "inception3b"), ("maxpool4", "maxpool4"),
        ("inception5b.concat", "inception5b")]),
    "inception_v3": ("inception_v3", 79, 17, ("frozen",), INCEPTION),
    # Large enough for statistics of eight values in the last stage.
    "inception_v3_111": ("inception_v3", 111, 17, ("batch",), INCEPTION),
    "shufflenet_v2_x0_5": ("shufflenet_v2_x0_5", 64, 17, ALL, [
        ("maxpool", "maxpool"), ("stage2.0.shuffle", "stage2.0"), ("stage2.3.shuffle", "stage2"),
        ("stage3.7.shuffle", "stage3"), ("conv5.1.act", "conv5")]),
    "regnet_y_400mf": ("regnet_y_400mf", 64, 17, ALL, REGNET),
    "convnext_tiny": ("convnext_tiny", 44, 17, ("frozen",), [
        ("features.0.1", "features.0"), ("features.1.2.add", "features.1"), ("features.2.1", "features.2"),
        ("features.3.2.add", "features.3"), ("features.5.4.add", "features.5.4"),
        ("features.7.2.add", "features.7"), ("classifier.0", "classifier.0")]),
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
    module, kind = name.rsplit(".", 1)
    if kind == "layer_scale":
        return 0.3, 0.9
    if module in norms:
        return {"weight": (0.6, 1.0), "bias": (-0.1, 0.3), "running_mean": (-0.2, 0.2), "running_var": (0.8, 1.6)}[kind]
    if tensor.ndim > 1:
        high = np.sqrt((6.0 if tensor.ndim == 4 else 3.0) / float(tensor[0].numel()))
        return -high, high
    return -0.1, 0.1


def norm_names(net):
    return {name for name, m in net.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))}


def fill(net):
    norms = norm_names(net)
    state = net.state_dict()  # filled as it is, since MNASNet wants the version that it carries
    for name, tensor in list(state.items()):
        if not name.endswith("num_batches_tracked"):
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


def prepare(model, width, classes, mode):
    """The network in double, in training but for what `mode` holds still."""
    net = reference.create(model, classes, width).double()
    fill(net)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d) and mode in ("forward", "frozen"):
            module.eval()
        if hasattr(module, "inplace"):
            module.inplace = False
    if mode == "smooth":
        smoothen(net)
    return net


# Activations, and where each has its kinks.
KINKS = {"ReLU": [0.0], "ReLU6": [0.0, 6.0], "Hardswish": [-3.0, 3.0], "Hardsigmoid": [-3.0, 3.0], "Sigmoid": [],
         "SiLU": [], "GELU": []}


def smoothen(net):
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if KINKS.get(type(child).__name__):
                setattr(parent, name, nn.SiLU())


@contextlib.contextmanager
def relu_is(function):
    """Some networks call torch.nn.functional.relu; nn.ReLU calls it as well."""
    original = nn.functional.relu
    nn.functional.relu = lambda x, inplace=False: function(x)
    try:
        yield
    finally:
        nn.functional.relu = original


def margin(net, images):
    """The least distance of an activation's input from a kink, relative to the inputs' root mean square."""
    least = [float("inf")]

    def look(x, kinks):
        scale = x.square().mean().sqrt()
        least[0] = min([least[0], *(((x - k).abs().min() / scale).item() for k in kinks)])

    def relu(x):
        look(x, [0.0])
        return x.clamp(min=0.0)

    hooks = [m.register_forward_pre_hook(lambda m, inputs: look(inputs[0], KINKS[type(m).__name__]))
             for m in net.modules() if type(m).__name__ in KINKS]
    with torch.no_grad(), relu_is(relu):
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


def run(model, width, size, classes, mode, layers):
    net = prepare(model, width, classes, mode)
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
    smooth = relu_is(nn.functional.silu) if mode == "smooth" else relu_is(lambda x: x.clamp(min=0.0))
    with smooth:
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


def write_table(path):
    """What the registry's rows are checked by: a line per model and set of published weights."""
    with open(path, "w", encoding="utf-8") as out:
        out.write("# model, parameters, weights of convolutions, gates of all and of spatial convolutions; tensors of the state\n"
                  "# dict with %d classes and a hash of their names, types and shapes; the same hash of timm's state dict, 0 where\n"
                  "# timm has no such network; size, resize, interpolation, mean, deviation, top-1, weights file.\n"
                  "# MODEL.TAG: other weights of the model. By scripts/make_model_goldens.py.\n" % TABLE_CLASSES)
        for name in reference.NAMES:
            lines = reference.state_lines(reference.meta(name, TABLE_CLASSES))
            twin = fnv1a("\n".join(reference.state_lines(reference.timm_meta(name, TABLE_CLASSES)))) if reference.timm_twin(name) else 0
            for tag in [None, *reference.tags(name)]:
                p = reference.published(name, tag)
                row = [name + ("." + tag if tag else ""), *reference.counts(name), len(lines), fnv1a("\n".join(lines)), twin,
                       p["size"], p["resize"], p["interpolation"], *p["mean"], *p["std"], p["top1"], p["file"]]
                out.write(" ".join(str(x) for x in row) + "\n")


def write_input_conv(path):
    """A first convolution for RGB, and what timm makes of it for one channel and for four."""
    torch.manual_seed(5)
    rgb = torch.randn(64, 3, 3, 3)
    save_file({"rgb": rgb.numpy(), "grey": adapt_input_conv(1, rgb.clone()).contiguous().numpy(),
               "rgba": adapt_input_conv(4, rgb.clone()).contiguous().numpy()}, path,
              metadata={"format": FORMAT, "timm": timm.__version__})


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/models"
    os.makedirs(folder, exist_ok=True)
    for case in sys.argv[2:] or ["zoo", "input_conv", *CASES]:
        if case == "input_conv":
            write_input_conv(os.path.join(folder, "input_conv.safetensors"))
            continue
        if case == "zoo":
            write_table(os.path.join(folder, "zoo.txt"))
            continue
        model, size, classes, modes, layers, *rest = CASES[case]
        width = rest[0] if rest else 1.0
        tensors = {
            "image_size": np.array([size]),
            "classes": np.array([classes]),
            "batch": np.array([BATCH]),
            "smoothing": np.array([SMOOTHING], dtype=np.float32),
            "width": np.array([width], dtype=np.float32),
        }
        print(case, flush=True)
        images = {}
        for mode in modes:
            results, names = run(model, width, size, classes, mode, layers)
            tensors.update(results)
            images.update(names)
        save_file(tensors, os.path.join(folder, case + ".safetensors"), metadata={
            "format": FORMAT, "model": model, "seed": "none, formula.h",
            "torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0],
            "timm": timm.__version__, **images})


if __name__ == "__main__":
    main()
