#!/usr/bin/env python3
"""Writes tests/fixtures/op_goldens.h: what PyTorch computes where a convention could go either way.

usage: make_op_goldens.py [OUT]     (needs torch; deterministic, the seed is in the file)
"""
import sys

import torch
import torch.nn.functional as F

SEED = 20240611
OUT = sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/op_goldens.h"
torch.manual_seed(SEED)
lines = [
    "/* Made by scripts/make_op_goldens.py with PyTorch %s, seed %d. Do not edit. */" % (torch.__version__.split("+")[0], SEED),
    "#ifndef TESTS_FIXTURES_OP_GOLDENS_H",
    "#define TESTS_FIXTURES_OP_GOLDENS_H",
    "/* clang-format off */",
    "#include <math.h>",
    "#include <stdint.h>",
    "",
]


def literal(value):
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = "%.9g" % value
    return text + ("f" if "." in text or "e" in text else ".0f")


def emit(name, tensor, kind="float"):
    values = tensor.detach().reshape(-1).tolist()
    texts = [literal(v) if kind == "float" else str(int(v)) for v in values]
    lines.append("static const %s golden_%s[%d] = {" % (kind, name, len(values)))
    for i in range(0, len(texts), 6):
        lines.append("    " + ", ".join(texts[i:i + 6]) + ",")
    lines.append("};")


def nhwc(tensor):
    return tensor.permute(0, 2, 3, 1).contiguous()


# Derivatives at the kinks and beside them.
points = torch.tensor([-4.0, -3.0, -2.5, -0.0, 0.0, 0.5, 3.0, 4.0, 6.0, 7.0])
emit("act_points", points)
for name, act in [("relu", F.relu), ("relu6", F.relu6), ("sigmoid", torch.sigmoid), ("hardsigmoid", F.hardsigmoid),
                  ("silu", F.silu), ("hardswish", F.hardswish), ("gelu", F.gelu)]:
    x = points.clone().requires_grad_()
    y = act(x)
    y.sum().backward()
    emit("act_%s" % name, y)
    emit("act_%s_grad" % name, x.grad)

# Batch norm in training: two steps of one module, so that the running statistics move twice.
norm = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.2)
with torch.no_grad():
    norm.weight.copy_(torch.tensor([1.5, -0.5, 2.0]))
    norm.bias.copy_(torch.tensor([0.25, 1.0, -1.0]))
for step in range(2):
    x = (torch.randn(2, 3, 2, 3) * 2 + torch.tensor([0.0, 5.0, -100.0]).reshape(1, 3, 1, 1)).requires_grad_()
    dy = torch.randn(2, 3, 2, 3)
    norm.weight.grad = norm.bias.grad = None
    y = norm(x)
    y.backward(dy)
    for name, t in [("x", nhwc(x)), ("dy", nhwc(dy)), ("y", nhwc(y)), ("dx", nhwc(x.grad)), ("dscale", norm.weight.grad),
                    ("dshift", norm.bias.grad), ("running_mean", norm.running_mean), ("running_var", norm.running_var)]:
        emit("norm_%s_%d" % (name, step), t)
norm.eval()
emit("norm_eval_y", nhwc(norm(x)))

# Layer norm over channels, eps as ConvNeXt has it.
norm = torch.nn.LayerNorm(5, eps=1e-6)
generator = torch.Generator().manual_seed(SEED)
with torch.no_grad():
    norm.weight.copy_(torch.tensor([1.5, -0.5, 2.0, 0.0, 1.0]))
    norm.bias.copy_(torch.tensor([0.25, 1.0, -1.0, 0.5, 0.0]))
x = (torch.randn(2, 2, 3, 5, generator=generator) * 2 + 3).requires_grad_()
dy = torch.randn(2, 2, 3, 5, generator=generator)
y = norm(x)
y.backward(dy)
for name, t in [("x", x), ("dy", dy), ("scale", norm.weight), ("shift", norm.bias), ("y", y), ("dx", x.grad),
                ("dscale", norm.weight.grad), ("dshift", norm.bias.grad)]:
    emit("layer_norm_%s" % name, t)

# Max pooling of ties and NaN; the index is that of PyTorch, into the input plane.
x = torch.tensor([[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 2.0, 2.0], [-1.0, float("nan"), 3.0, 3.0], [-1.0, -2.0, 3.0, float("-inf")]])
x = x.reshape(1, 1, 4, 4)
y, index = F.max_pool2d(x, 3, 2, 1, return_indices=True)
emit("maxpool_x", x)
emit("maxpool_y", y)
emit("maxpool_index", index, "int32_t")
x = torch.randn(1, 1, 5, 5)
emit("avgpool_x", x)
emit("avgpool_padded", F.avg_pool2d(x, 3, 2, 1, count_include_pad=True))
emit("avgpool_inside", F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
emit("avgpool_ceil", F.avg_pool2d(x, 2, 2, 0, ceil_mode=True))

# Cross-entropy with label smoothing.
x = (torch.randn(3, 5) * 3).requires_grad_()
labels = torch.tensor([0, 4, 2])
losses = F.cross_entropy(x, labels, label_smoothing=0.1, reduction="none")
losses.mean().backward()
emit("loss_logits", x)
emit("loss_labels", labels, "int32_t")
emit("loss_values", losses)
emit("loss_grad", x.grad)

# Optimizers: 5 steps with the same gradients; the values after each. A large epsilon shows where it is added.
start, grads = torch.randn(4), torch.randn(5, 4)
emit("optim_start", start)
emit("optim_grads", grads)
for name, make in [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1)),
        ("sgd_momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05)),
        ("sgd_nesterov", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-2, weight_decay=0.05)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), eps=1e-2, weight_decay=0.05))]:
    p = start.clone().requires_grad_()
    optimizer, values = make([p]), []
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        values.append(p.detach().clone())
    emit("optim_%s" % name, torch.stack(values))

# The same with a pull towards the start, a term of the loss: coupled under AdamW too.
p = start.clone().requires_grad_()
optimizer, values = torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.99), eps=1e-2, weight_decay=0.05), []
for g in grads:
    optimizer.zero_grad()
    ((g * p).sum() + 0.5 * 3.0 * ((p - start) ** 2).sum()).backward()
    optimizer.step()
    values.append(p.detach().clone())
emit("optim_pull", torch.stack(values))

# Batch spectral shrinkage: half the sum of the k smallest squared singular values, by autograd through the decomposition.
for name, shape in [("wide", (5, 9)), ("tall", (7, 4))]:
    x = torch.randn(shape, generator=generator)
    emit("bss_%s_x" % name, x)
    for k in (1, 3):
        features = x.double().requires_grad_()
        penalty = 0.5 * (torch.linalg.svdvals(features)[-k:] ** 2).sum()
        penalty.backward()
        emit("bss_%s_grad_%d" % (name, k), features.grad)
        emit("bss_%s_penalty_%d" % (name, k), penalty)

# Logistic regression to its end: the mean of cross-entropies plus lambda/2 |W|^2, over the samples.
x, labels = torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator)
x[:, 0] += labels
emit("logistic_x", x)
emit("logistic_labels", labels, "int32_t")
objectives = []
for penalty in (10.0, 0.1):
    layer = torch.nn.Linear(6, 3).double()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=1000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = F.cross_entropy(layer(x.double()), labels) + 0.5 * penalty / 40 * (layer.weight ** 2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    objectives.append(closure().item())
emit("logistic_objective", torch.tensor(objectives, dtype=torch.float64))

lines += ["/* clang-format on */", "#endif"]
with open(OUT, "w") as f:
    f.write("\n".join(lines) + "\n")
