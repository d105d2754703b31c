#!/usr/bin/env python3
"""Writes tests/fixtures/onnx: small networks that between them have every operator that is read and the ways in which
exporters put layouts and shapes, with what onnxruntime computes for two images (needs onnx, onnxruntime, safetensors).

NAME.onnx, and NAME.safetensors with "images" f32 [2, H, W, 3] (what the network sees, channels last) and "logits" f32
[2, classes]. usage: make_onnx_fixtures.py [FOLDER]
"""
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file


class Net:
    """A network being written down."""

    def __init__(self, name, opset, size=12, nhwc=False, batch="n"):
        self.name, self.opset, self.size, self.nhwc, self.batch = name, opset, size, nhwc, batch
        self.draw = np.random.default_rng(sum(map(ord, name)))
        self.nodes, self.tensors, self.count = [], [], 0

    def weight(self, *shape, name=None, dtype=np.float32, scale=None):
        scale = scale if scale is not None else (2.0 / max(1, int(np.prod(shape[1:])))) ** 0.5
        return self.tensor((self.draw.standard_normal(shape) * scale).astype(dtype), name)

    def tensor(self, array, name=None):
        name = name or "w%d" % len(self.tensors)
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def numbers(self, *values):
        return self.tensor(np.array(values, dtype=np.int64))

    def number(self, value):
        return self.tensor(np.array(value, dtype=np.float32))

    def add(self, op, *inputs, outputs=1, name=None, **attributes):
        self.count += 1
        outs = ["v%d_%d" % (self.count, i) for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), outs, name=name or "", **attributes))
        return outs[0] if outputs == 1 else outs

    def norm(self, x, channels, name, **attributes):
        parts = [self.tensor(self.draw.uniform(lo, hi, channels).astype(np.float32), "%s.%s" % (name, part))
                 for part, lo, hi in (("weight", 0.6, 1.2), ("bias", -0.2, 0.3), ("running_mean", -0.2, 0.2),
                                      ("running_var", 0.8, 1.6))]
        return self.add("BatchNormalization", x, *parts, **attributes)

    def save(self, folder, output, classes):
        shape = [self.batch, self.size, self.size, 3] if self.nhwc else [self.batch, 3, self.size, self.size]
        graph = helper.make_graph(
            self.nodes, self.name, [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [self.batch, classes])], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model)
        path = os.path.join(folder, self.name + ".onnx")
        onnx.save(model, path)
        images = self.draw.uniform(-2, 2, (2, self.size, self.size, 3)).astype(np.float32)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        fed = images if self.nhwc else images.transpose(0, 3, 1, 2)
        logits = np.concatenate([np.reshape(session.run(None, {"image": np.ascontiguousarray(fed[i:i + 1])})[0], (1, -1))
                                 for i in range(2)])
        assert logits.shape == (2, classes), logits.shape
        save_file({"images": images, "logits": logits}, os.path.join(folder, self.name + ".safetensors"))
        print("%-12s %6d bytes, logits %s" % (self.name, os.path.getsize(path), logits[0, :4]))


def squeeze(net, x, channels):
    y = net.add("GlobalAveragePool", x)
    y = net.add("Relu", net.add("Conv", y, net.weight(4, channels, 1, 1), net.weight(4)))
    y = net.add("Conv", y, net.weight(channels, 4, 1, 1), net.weight(channels))
    return net.add("Mul", net.add("Sigmoid", y), x)


def shuffle(net, x, channels):
    """As PyTorch writes it: the target of the first Reshape is computed from the shape, the second one's is constant."""
    shape = net.add("Shape", x)
    part = [net.add("Unsqueeze", net.add("Gather", shape, net.tensor(np.array(i, dtype=np.int64)), axis=0),
                    net.numbers(0)) for i in (0, 2, 3)]
    half = net.add("Div", net.add("Gather", shape, net.numbers(1), axis=0), net.numbers(2))
    target = net.add("Concat", part[0], net.numbers(2), half, part[1], part[2], axis=0)
    x = net.add("Transpose", net.add("Reshape", x, target), perm=[0, 2, 1, 3, 4])
    return net.add("Reshape", x, net.numbers(0, -1, *[net.size // 2] * 2) if channels is None else
                   net.add("Concat", part[0], net.numbers(channels), part[1], part[2], axis=0))


def pytorch(folder):
    """Channels first: windows of all kinds, activations, squeeze-excite, shuffles, concatenations."""
    net = Net("pytorch", 13)
    x = net.add("Conv", "image", net.weight(8, 3, 3, 3, name="stem.conv.weight"), name="/stem/conv/Conv",
                pads=[1, 1, 1, 1], strides=[1, 1])
    x = net.norm(x, 8, "stem.norm", epsilon=1e-3, momentum=0.99)
    x = net.add("Clip", x, net.number(0), net.number(6), name="/stem/act/Clip")
    y = net.add("Conv", x, net.weight(8, 2, 3, 3), net.weight(8), group=4, dilations=[2, 2], pads=[2, 2, 2, 2])
    y = net.add("Mul", y, net.add("Sigmoid", y))
    z = net.add("Conv", y, net.weight(8, 1, 3, 2), group=8, pads=[1, 0, 1, 1], name="/deep/deep.0/Conv")
    z = net.add("HardSwish", net.norm(z, 8, "deep_norm")) if net.opset >= 14 else \
        net.add("Mul", z, net.add("HardSigmoid", z, alpha=1 / 6, beta=0.5))
    x = net.add("Add", squeeze(net, z, 8), x)
    x = net.add("Relu", x)
    x = net.add("Concat", net.add("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]), x, axis=1)
    x = shuffle(net, x, 16)
    left, right = net.add("Split", x, net.numbers(8, 8), outputs=2, axis=1)
    right = net.add("Relu", net.add("Conv", right, net.weight(8, 8, 3, 3), auto_pad="SAME_UPPER", strides=[1, 1]))
    x = shuffle(net, net.add("Concat", left, right, axis=1), 16)
    first = net.add("Slice", x, net.numbers(0), net.numbers(8), net.numbers(1))
    second = net.add("Slice", x, net.numbers(8), net.numbers(2**62), net.numbers(1), net.numbers(1))
    x = net.add("Add", first, net.add("HardSigmoid", second, alpha=1 / 6, beta=0.5))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = net.add("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1)
    x = net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 1], pads=[1, 0, 0, 1])
    x = net.add("Flatten", net.add("GlobalAveragePool", x), axis=1)
    x = net.add("Gemm", x, net.weight(6, 8, name="fc1.weight"), net.weight(6), transB=1)
    x = net.add("Relu", x)
    net.save(folder, net.add("Gemm", x, net.weight(5, 6, name="fc.weight"), net.weight(5, name="fc.bias"), transB=1,
                             name="/fc/Gemm"), 5)


def tensorflow(folder):
    """Channels last, with transpositions around convolutions; SAME; a dense layer over a whole map."""
    net = Net("tensorflow", 9, size=11, nhwc=True, batch=1)
    x = net.add("Sub", "image", net.tensor(np.array([0.1, -0.2, 0.3], dtype=np.float32)))
    x = net.add("Mul", x, net.tensor(np.array([0.9, 1.1, 1.2], dtype=np.float32).reshape(1, 1, 1, 3)))
    x = net.add("Div", x, net.number(1.5))
    x = net.add("Pad", x, pads=[0, 0, 1, 0, 0, 2, 1, 0])
    x = net.add("Transpose", x, perm=[0, 3, 1, 2])
    kernel = net.add("Transpose", net.weight(3, 3, 3, 6, scale=0.25), perm=[3, 2, 0, 1])
    x = net.add("Conv", x, kernel, strides=[2, 2], name="model/conv1/Conv2D", auto_pad="VALID")
    x = net.add("Add", x, net.weight(1, 6, 1, 1, scale=0.2))
    x = net.norm(x, 6, "bn")
    x = net.add("Transpose", net.add("Relu", x), perm=[0, 2, 3, 1])
    x = net.add("MatMul", x, net.weight(6, 8, scale=0.5), name="model/dense/MatMul")
    x = net.add("Add", x, net.weight(8, scale=0.2))
    y = net.add("Clip", net.add("Add", x, net.number(3)), min=0.0, max=6.0)
    x = net.add("Mul", x, net.add("Mul", y, net.number(1 / 6)))
    y = net.add("Clip", net.add("Add", x, net.number(3)), min=0.0, max=6.0)
    x = net.add("Div", net.add("Mul", x, y), net.number(6))
    x = net.add("Transpose", x, perm=[0, 3, 1, 2])
    x = net.add("Conv", x, net.weight(8, 1, 3, 3, scale=0.5), group=8, auto_pad="SAME_LOWER", strides=[2, 2])
    x = net.add("MaxPool", net.add("Relu", x), kernel_shape=[2, 2], strides=[1, 1], auto_pad="SAME_UPPER")
    x = net.add("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    x = net.add("Reshape", net.add("Transpose", x, perm=[0, 2, 3, 1]), net.numbers(1, -1))
    x = net.add("MatMul", x, net.weight(32, 4, scale=0.2), name="model/logits/MatMul")
    x = net.add("Add", net.weight(4), x)
    net.save(folder, x, 4)


def modern(folder):
    """Newer opsets: axes as inputs, GELU written out, a constant computed from constants, elements of other types."""
    net = Net("modern", 18, size=10)
    parts = [net.add("Unsqueeze", net.add("Gather", "image", net.tensor(np.array(i, dtype=np.int64)), axis=1), net.numbers(1))
             for i in range(3)]
    parts = [net.add("Add", net.add("Mul", part, net.number(0.9 + i / 10)), net.number(i / 10 - 0.1))
             for i, part in enumerate(parts)]
    x = net.add("Concat", *parts, axis=1)
    x = net.add("Conv", x, net.weight(8, 3, 2, 2, name="patch.weight"), net.weight(8), strides=[2, 2])
    y = net.add("Erf", net.add("Div", x, net.number(2 ** 0.5)))
    x = net.add("Mul", net.add("Mul", x, net.add("Add", y, net.number(1))), net.number(0.5))
    y = net.add("Erf", net.add("Mul", x, net.number(0.5 ** 0.5)))
    x = net.add("Mul", net.add("Mul", x, net.number(0.5)), net.add("Add", net.number(1), y))
    x = net.add("Pad", x, net.numbers(0, 0, 1, 1, 0, 0, 1, 1), net.number(0))
    x = net.add("Conv", x, net.weight(8, 8, 3, 3))
    x = net.add("Dropout", net.add("Relu", x), net.number(0.25))
    x = net.add("Clip", x, net.number(0))
    y = net.add("ReduceMean", x, net.numbers(2, 3), keepdims=1)
    x = net.add("Mul", net.add("HardSigmoid", y, alpha=1 / 6), x)
    x = net.add("Mul", x, net.tensor(np.linspace(0.5, 1.5, 8, dtype=np.float32).reshape(8, 1, 1)))
    x = net.add("Add", x, net.tensor(np.linspace(-0.5, 0.5, 8, dtype=np.float32).reshape(1, 8, 1, 1)))
    a, b = net.add("Split", x, outputs=2, axis=1, num_outputs=2)
    x = net.add("Add", net.add("Mul", a, b), a)
    x = net.add("Unsqueeze", net.add("Identity", x), net.numbers(1))
    x = net.add("Cast", net.add("Squeeze", x, net.numbers(1)), to=1)
    x = net.add("Reshape", x, net.numbers(0, 4, 25))
    x = net.add("ReduceMean", x, net.numbers(2), keepdims=0)
    x = net.add("Reshape", x, net.add("Concat", net.numbers(-1), net.add("Mul", net.numbers(2), net.numbers(2)), axis=0))
    x = net.add("Gemm", x, net.weight(4, 7, scale=0.5), net.weight(7))
    net.save(folder, x, 7)


def old(folder):
    """Opset 7: attributes instead of inputs; numbers in typed fields; a flattened map, a convolution as classifier."""
    net = Net("old", 7, size=8)

    def typed(name, array, kind):
        net.tensors.append(helper.make_tensor(name, kind, array.shape, array.ravel(), raw=False))
        return name

    draw = net.draw
    x = net.add("Conv", "image", typed("first.weight", (draw.standard_normal((4, 3, 3, 3)) * 0.3).astype(np.float32),
                                       TensorProto.FLOAT), typed("first.bias", draw.standard_normal(4).astype(np.float32),
                                                                 TensorProto.FLOAT))
    x = net.add("Relu", net.norm(x, 4, "norm"))
    x = net.add("Reshape", x, typed("target", np.array([-1, 144], dtype=np.int64), TensorProto.INT64))
    x = net.add("Gemm", x, net.weight(144, 16, scale=0.15), net.weight(16))
    x = net.add("Dropout", net.add("Relu", x), ratio=0.5)
    x = net.add("Unsqueeze", x, axes=[2, 3])
    constant = net.add("Constant", value=numpy_helper.from_array((draw.standard_normal((16, 16, 1, 1)) * 0.3).astype(np.float32)))
    x = net.add("Relu", net.add("Conv", x, constant))
    x = net.add("Conv", x, net.weight(3, 16, 1, 1), net.weight(3), name="classifier")
    x = net.add("Relu", x)
    x = net.add("GlobalAveragePool", x)
    net.save(folder, net.add("Squeeze", x, axes=[2, 3]), 3)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/onnx"
    os.makedirs(folder, exist_ok=True)
    for make in (pytorch, tensorflow, modern, old):
        make(folder)


if __name__ == "__main__":
    main()
