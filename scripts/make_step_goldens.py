"""Writes tests/fixtures/steps/MODEL-METHOD-OPTIMIZER.txt: one or two optimizer steps as PyTorch makes them in double, from the weights
and images of tests/support/formula.h.

First line: the loss before each step. Then for every tensor that changed: its name, the Euclidean norm of the change, the
largest absolute value after, and the first two values after."""

import math
import pathlib
import sys

import torch
import torchvision
from torch.func import functional_call

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_model_goldens as formula

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "steps"
BATCH, SIZE, CLASSES = 4, 64, 5
SHRINKAGE = 0.05  # of bss, with two singular values
WHOLE = ("full", "bss")
HEADS = {"mobilenet_v2": "classifier.1.", "resnet18": "fc."}


def draw(name, low, high, shape):
    return torch.from_numpy(formula.values(name, low, high, math.prod(shape))).double().reshape(shape)


def optimizer_of(name, parameters):
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-3)
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)


def build(name, method):
    model = torchvision.models.get_model(name, num_classes=CLASSES).double()
    formula.fill(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train(method in WHOLE)  # --norm full: batch statistics; otherwise running ones
    norms = {n for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    trained, gates = {}, {}
    for key, parameter in model.named_parameters():
        head = key.startswith(HEADS[name])
        chosen = head or method in WHOLE or (method == "norm" and key.rsplit(".", 1)[0] in norms)
        parameter.requires_grad_(chosen)
        if chosen:
            trained[key] = parameter
        elif method == "projection" and parameter.dim() == 4:
            gate = key.removesuffix("weight") + "gate"
            delta = draw(gate, -0.2, 0.2, parameter.shape[:2])
            gates[key] = trained[gate] = delta.requires_grad_(True)
    return model, trained, gates


def write(name, method, optimizer):
    torch.manual_seed(0)
    model, trained, gates = build(name, method)
    moving = {k: b for k, b in model.named_buffers() if not k.endswith("num_batches_tracked")} if method in WHOLE else {}
    before = {k: v.detach().clone() for k, v in {**trained, **moving}.items()}
    images = draw("images", -2.0, 2.0, (BATCH, SIZE, SIZE, 3)).permute(0, 3, 1, 2)
    labels = torch.arange(BATCH) * 3 % CLASSES
    update = optimizer_of(optimizer, list(trained.values()))
    losses, features = [], []
    if method == "bss":
        model.get_submodule(HEADS[name][:-1]).register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    # With batch statistics of few samples rounding grows from step to step: one is compared, else two.
    for _ in range(1 if method in WHOLE else 2):
        weights = dict(model.named_parameters())
        weights.update({key: weights[key] * (1 + gate)[:, :, None, None] for key, gate in gates.items()})
        logits = functional_call(model, weights, (images,))
        loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        penalty = SHRINKAGE * (torch.linalg.svdvals(features.pop())[-2:] ** 2).sum() if method == "bss" else 0.0
        update.zero_grad()
        (loss + penalty).backward()
        update.step()
        losses.append(loss.item())
    lines = [" ".join(f"{loss:.9g}" for loss in losses)]
    for key, tensor in {**trained, **moving}.items():
        after = tensor.detach()
        first = after.flatten()[:2]
        change = (after.double() - before[key].double()).norm()
        lines.append(f"{key} {change:.7g} {after.abs().max():.7g} " + " ".join(f"{v:.9g}" for v in first))
    (OUT / f"{name}-{method}-{optimizer}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write("resnet18", "bss", "sgd")
    for model_name in HEADS:
        for method_name in ("linear", "norm", "projection", "full"):
            for optimizer_name in ("sgd", "adamw"):
                # See tests/train/test_step_goldens.c for the one that is left out.
                if (model_name, method_name, optimizer_name) != ("mobilenet_v2", "full", "adamw"):
                    write(model_name, method_name, optimizer_name)
