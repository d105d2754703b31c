#!/usr/bin/env python3
"""Writes tests/fixtures/methods/METHOD.txt: an optimizer step of a transfer method on five backbones as PyTorch makes it in
double, from the weights and images of tests/support/formula.h. `make_method_goldens.py [METHOD...]` for some; `--check`
compares counts of trained parameters on ResNet-50 alone, `--float` says how far PyTorch's own steps in float are from those.

The backbones have torchvision's layers, a quarter of the channels (a half for MobileNetV2), SiLU for ReLU and averages for
maxima, so that no gradient meets a kink. For each of them

    model NAME
    losses   mean cross-entropy before each step and after the last
    kind KIND TENSORS VALUES LENGTH CHANGE PROBE
    tensor NAME VALUES CHANGE FIRST SECOND

KIND is what names end in, over all of them: the norm of the values afterwards, of their change, and the change's probe (as a
summary's in formula.h, each tensor beginning anew). Then a few of the tensors, and the first two values of each."""
import pathlib
import sys

import torch
import torchvision
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_model_goldens as formula
from method_reference import ROWS, Transfer, draw

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "methods"
BATCH, SIZE, CLASSES = 4, 32, 5
MOMENTUM, DECAY, SMOOTHING = 0.9, 1e-3, 0.1
LR, LR_BATCH = 3e-2, 1e-3  # running statistics leave small gradients, those of the batch large ones
TENSORS = 4  # of each network that get a line of their own


def narrow(net, share):
    """The same layers with so many of the channels."""
    for parent in list(net.modules()):
        for name, m in list(parent.named_children()):
            if isinstance(m, nn.Conv2d):
                inputs = 3 if m.in_channels == 3 else int(m.in_channels * share)
                setattr(parent, name, nn.Conv2d(inputs, int(m.out_channels * share), m.kernel_size, m.stride, m.padding,
                                                groups=m.groups, bias=m.bias is not None))
            elif isinstance(m, nn.BatchNorm2d):
                setattr(parent, name, nn.BatchNorm2d(int(m.num_features * share), m.eps, m.momentum))
            elif isinstance(m, nn.Linear):
                setattr(parent, name, nn.Linear(int(m.in_features * share), m.out_features))
    return net


def resnet(name):
    return narrow(torchvision.models.get_model(name, num_classes=CLASSES), 0.25)


def convnext():
    plan = [torchvision.models.convnext.CNBlockConfig(24 << s, 48 << s if s < 3 else None, n) for s, n in enumerate((3, 3, 9, 3))]
    return torchvision.models.ConvNeXt(plan, num_classes=CLASSES)


# name: (family, head, network)
BACKBONES = {
    "resnet18": ("resnet", "fc", lambda: resnet("resnet18")),
    "mobilenet_v2": ("mobilenet_v2", "classifier.1", lambda: torchvision.models.mobilenet_v2(num_classes=CLASSES, width_mult=0.5)),
    "resnext50_32x4d": ("resnet", "fc", lambda: resnet("resnext50_32x4d")),
    "convnext_tiny": ("convnext", "classifier.2", convnext),
    "densenet121": ("densenet", "classifier", lambda: torchvision.models.DenseNet(8, (6, 12, 24, 16), 16, num_classes=CLASSES)),
}


def smooth(net):
    for parent in list(net.modules()):
        for name, m in list(parent.named_children()):
            if isinstance(m, (nn.ReLU, nn.ReLU6)):
                setattr(parent, name, nn.SiLU())
            elif isinstance(m, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(m.kernel_size, m.stride, m.padding, count_include_pad=False))
            elif isinstance(m, nn.Dropout) or type(m).__name__ == "StochasticDepth":
                m.p = 0.0
            if hasattr(m, "inplace"):
                m.inplace = False


def kind_of(name, tensor, head):
    if name.startswith(head + "."):
        return "head"
    for added in (".lora_", ".adapter", ".ssf."):
        if added in name:
            return name[name.index(added) + 1:]
    kind = name.rsplit(".", 1)[-1]
    return "scale" if kind == "weight" and tensor.dim() == 1 else kind


def step(model, method, dtype):
    """Losses, and (before, after) of everything that changes."""
    family, head, create = BACKBONES[model]
    net = create().double()
    formula.fill(net)
    net = net.to(dtype)
    smooth(net)
    t = Transfer(net, family, head, dtype)
    ROWS[method][0](t)
    net.train(t.batch)
    moving = {k: b for k, b in net.named_buffers() if not k.endswith("num_batches_tracked")} if t.batch else {}
    moving.update(t.moving)
    before = {k: v.detach().clone() for k, v in {**t.trained, **moving}.items()}
    images = draw("images", -2.0, 2.0, (BATCH, SIZE, SIZE, 3)).to(dtype).permute(0, 3, 1, 2)
    labels = torch.arange(BATCH) * 3 % CLASSES
    update = torch.optim.SGD(list(t.trained.values()), lr=LR_BATCH if t.batch or moving else LR, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)
    losses = []

    def loss():
        with formula.relu_is(nn.functional.silu):
            logits = t.logits(images)
        value = nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        losses.append(value.item())
        return value + t.penalty()

    for _ in range(t.steps):
        update.zero_grad()
        loss().backward()
        update.step()
    after = {k: v.detach().clone() for k, v in {**t.trained, **moving}.items()}
    loss()
    return losses, head, before, after


def probe(change):
    return float((change.numpy().reshape(-1) * (2.0 * formula.unit("probe", change.numel()) - 1.0)).sum())


def lines_of(model, method):
    losses, head, before, after = step(model, method, torch.float64)
    kinds = {}
    for name, tensor in after.items():
        kinds.setdefault(kind_of(name, tensor, head), []).append(name)
    lines = ["model " + model, "losses " + " ".join("%.9g" % loss for loss in losses)]
    for kind, names in sorted(kinds.items()):
        changes = [after[n] - before[n] for n in names]
        change = sum(c.square().sum() for c in changes) ** 0.5
        length = sum(after[n].square().sum() for n in names) ** 0.5
        lines.append("kind %s %d %d %.7g %.7g %.7g" % (kind, len(names), sum(c.numel() for c in changes), length, change,
                                                     sum(map(probe, changes))))
    names = list(after)
    for i in sorted({i * (len(names) - 1) // (TENSORS - 1) for i in range(TENSORS)}):
        name = names[i]
        first = [*after[name].flatten()[:2].tolist(), 0.0][:2]
        lines.append("tensor %s %d %.7g %.9g %.9g" % (name, after[name].numel(), (after[name] - before[name]).norm(), *first))
    print("%s %s: losses %s" % (method, model, losses), flush=True)
    return lines


def rounding(model, method):
    """How far float takes PyTorch itself from double: losses and changes, relative."""
    exact, rough = (step(model, method, dtype) for dtype in (torch.float64, torch.float32))
    moved = [(exact[3][n] - exact[2][n], (rough[3][n] - rough[2][n]).double()) for n in exact[3]]
    off = sum((a - b).square().sum() for a, b in moved) / sum(a.square().sum() for a, _ in moved)
    print("%s %s in float: losses off by %.1e, changes by %.1e" %
          (method, model, max(abs(a - b) / abs(a) for a, b in zip(exact[0], rough[0])), off ** 0.5), flush=True)


def check_counts():
    net = torchvision.models.resnet50()
    for method, (apply, count) in ROWS.items():
        t = Transfer(net, "resnet", "fc", torch.float32)
        apply(t)
        have = sum(p.numel() for n, p in t.trained.items() if not n.startswith("fc."))
        assert count is None or have == count, "%s trains %d parameters of ResNet-50, not %d" % (method, have, count)
        print("%s: %d" % (method, have))


def main():
    options = {a for a in sys.argv[1:] if a.startswith("--")}
    methods = [a for a in sys.argv[1:] if a not in options] or ROWS
    check_counts()
    if "--check" in options:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    for method in methods:
        if "--float" in options:
            for model in BACKBONES:
                rounding(model, method)
            continue
        lines = ["# By scripts/make_method_goldens.py."]
        for model in BACKBONES:
            lines += lines_of(model, method)
        (OUT / (method + ".txt")).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
