"""One training configuration in PyTorch, timed step by step; prints one JSON object.

The counterpart of `heirloom bench`: the same synthetic images, channels-last, AdamW, the gates of model projection multiplied into the
weights. The PyTorch version is what a careful user would write: frozen weights need no gradient, autocast runs 16-bit types, and on CUDA
cuDNN times its algorithms and the optimizer is fused. With --save-weights it writes the network that both sides start from instead."""

import argparse
import json
import resource
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F


class ProjectedConv2d(torch.nn.Module):
    """y = conv(x, (1 + delta) W): one trained scalar for every (output, input) filter."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv.requires_grad_(False)
        out_channels, in_channels = conv.weight.shape[:2]
        self.delta = torch.nn.Parameter(torch.zeros(out_channels, in_channels, 1, 1))

    def forward(self, x):
        c = self.conv
        if type(c).__name__ == "Conv2dSame":  # timm's, which pads by the size of its input
            from timm.layers import pad_same

            x = pad_same(x, c.kernel_size, c.stride, c.dilation)
        return F.conv2d(x, c.weight * (1 + self.delta), c.bias, c.stride, c.padding, c.dilation, c.groups)


def create(name, drop_path=None):
    if name.startswith("efficientnet_lite"):
        import timm

        return timm.create_model("tf_" + name)
    import torchvision

    # As torchvision trains it, unless told otherwise; other networks have no stochastic depth.
    options = {"stochastic_depth_prob": drop_path} if drop_path is not None and name.startswith(("efficientnet", "convnext")) else {}
    return torchvision.models.get_model(name, **options)


def apply_method(model, name, method, norm):
    heads = {"mobilenet_v2": "classifier.1", "resnet": "fc", "convnext": "classifier.2"}
    head = model.get_submodule(next((heads[key] for key in heads if name.startswith(key)), "classifier"))
    if method != "full":
        model.requires_grad_(False)
    if method.startswith("projection"):
        spatial = "scope=spatial" in method
        for parent in list(model.modules()):
            for child_name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Conv2d) and not (spatial and max(child.kernel_size) == 1):
                    setattr(parent, child_name, ProjectedConv2d(child))
    elif method not in ("linear", "norm", "full"):
        raise SystemExit(f"bench_pytorch: unknown method {method}")
    head.requires_grad_(True)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train(norm in ("update", "full"))
            module.requires_grad_(norm in ("affine", "full"))
        elif isinstance(module, torch.nn.LayerNorm):
            module.requires_grad_(norm in ("affine", "full"))
        elif type(module).__name__ == "StochasticDepth":
            module.train(method != "linear")  # as heirloom: not in front of the first trained layer


def noise(n, side):
    """The images of `heirloom bench`: u8 [n, side, side, 3]."""
    count = n * side * side * 3
    powers = np.cumprod(np.full(count, 1664525, np.uint32), dtype=np.uint32)
    sums = np.concatenate([np.ones(1, np.uint32), np.cumsum(powers[:-1], dtype=np.uint32) + np.uint32(1)])
    state = powers + np.uint32(1013904223) * sums
    return (state >> 24).astype(np.uint8).reshape(n, side, side, 3)


def prepared(model, n, side):
    """As the network's own preprocessing has them."""
    config = getattr(model, "default_cfg", {})
    mean = np.array(config.get("mean", (0.485, 0.456, 0.406)), np.float32)
    std = np.array(config.get("std", (0.229, 0.224, 0.225)), np.float32)
    return torch.from_numpy((noise(n, side).astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)


def save_weights(name, side, path):
    """Random weights whose norms' running statistics are those of a batch, so that activations have a sensible size."""
    model = create(name).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model(prepared(model, 8, side))
    torch.save(model.state_dict(), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="projection")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--norm", choices=["frozen", "affine", "update", "full"], default="frozen")
    parser.add_argument("--drop-path", type=float, help="stochastic depth; default: the network's")
    parser.add_argument("--weights", help="a state dict to start from")
    parser.add_argument("--save-weights", metavar="FILE")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.save_weights:
        save_weights(args.model, args.image_size, args.save_weights)
        return
    on_cuda = args.device == "cuda"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision != "fp32"
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    scaler = torch.amp.GradScaler(args.device, enabled=args.precision == "fp16")
    model = create(args.model, args.drop_path)
    if args.weights:
        model.load_state_dict(torch.load(args.weights, weights_only=True))
    images = prepared(model, args.batch_size, args.image_size).to(args.device, memory_format=torch.channels_last)
    apply_method(model, args.model, args.method, args.norm)
    model = model.to(args.device, memory_format=torch.channels_last)
    run = torch.compile(model) if args.compile else model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=on_cuda)
    labels = (torch.arange(args.batch_size) % 1000).to(args.device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, dtype=half, enabled=half is not None):
            loss = F.cross_entropy(run(images).float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if on_cuda:
            torch.cuda.synchronize()
        return loss

    first_loss = step().item()
    for _ in range(2):
        step()
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    times.sort()
    median = statistics.median(times)
    print(
        json.dumps(
            {
                "images_per_second": args.batch_size / median,
                "ms_median": 1e3 * median,
                "ms_p95": 1e3 * times[min(len(times) - 1, int(0.95 * len(times)))],
                "peak_memory_bytes": torch.cuda.max_memory_allocated()
                if on_cuda
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "loss": first_loss,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
