"""One training configuration in PyTorch, timed step by step; prints one JSON object.

The counterpart of `heirloom bench`: synthetic images, channels-last, running norm statistics frozen (full fine-tuning: batch
statistics), AdamW, the gates of model projection multiplied into the weights. The PyTorch version is what a careful user would write: the
frozen weights need no gradient, autocast runs 16-bit types, and on CUDA cuDNN times its algorithms and the optimizer is fused."""

import argparse
import json
import resource
import statistics
import time

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
        return F.conv2d(x, c.weight * (1 + self.delta), c.bias, c.stride, c.padding, c.dilation, c.groups)


def build(name, method):
    if name.startswith("efficientnet_lite"):
        import timm

        model = timm.create_model("tf_" + name)
    else:
        import torchvision

        model = torchvision.models.get_model(name)
    if method == "full":
        return model.train()
    model.requires_grad_(False)
    if method.startswith("projection"):
        spatial = "scope=spatial" in method
        for parent in list(model.modules()):
            for child_name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Conv2d) and not (spatial and max(child.kernel_size) == 1):
                    setattr(parent, child_name, ProjectedConv2d(child))
    elif method == "norm":
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(True)
    elif method != "linear":
        raise SystemExit(f"bench_pytorch: unknown method {method}")
    head = model.get_submodule({"mobilenet_v2": "classifier.1"}.get(name, "fc" if name.startswith("resnet") else "classifier"))
    head.requires_grad_(True)
    return model.eval()


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
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    on_cuda = args.device == "cuda"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision != "fp32"
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    scaler = torch.amp.GradScaler(args.device, enabled=args.precision == "fp16")
    model = build(args.model, args.method).to(args.device, memory_format=torch.channels_last)
    run = torch.compile(model) if args.compile else model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=on_cuda)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size).to(args.device, memory_format=torch.channels_last)
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

    for _ in range(3):
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
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
