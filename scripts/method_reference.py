"""Transfer methods as PyTorch computes them, written from their definitions: what scripts/make_method_goldens.py compares
the program's with. Each is a function of a Transfer, which says what is trained, what weights are made of it and what is put
between layers; ROWS at the end names them.

Values of what a method adds come from tests/support/formula.h by its name, in a range that tests/support/methods.c has too,
so that no gradient vanishes for the reason that something starts at zero."""
import math

import torch
from torch import nn
from torch.nn import functional as F

import make_model_goldens as formula


def draw(name, low, high, shape):
    return torch.from_numpy(formula.values(name, low, high, math.prod(shape))).reshape(shape)


class Transfer:
    """A network and what a method makes of it. `net` stays as it is: weights go in by torch.func.functional_call."""

    def __init__(self, net, family, head, dtype=torch.float64):
        self.net, self.family, self.head, self.dtype = net, family, head, dtype
        self.modules = dict(net.named_modules())
        self.base = dict(net.named_parameters())
        for parameter in self.base.values():
            parameter.requires_grad_(False)
        self.trained = {}   # name: leaf
        self.weights = {}   # name of a parameter: function without arguments that gives it
        self.penalty = lambda: 0.0
        self.batch = False  # norms on the statistics of the batch
        self.steps = 1
        for key in self.base:
            if key.startswith(head + "."):
                self.train(key)

    # ---- what a method says ----

    def train(self, key):
        self.trained[key] = self.base[key].requires_grad_(True)

    def add(self, name, shape, high=0.2, low=None):
        """A new parameter from the formula, in +-high or low .. high."""
        value = draw(name, -high if low is None else low, high, shape).to(self.dtype)
        self.trained[name] = value.requires_grad_(True)
        return value

    def change(self, layer, function):
        """The layer's weight W is function(W)."""
        key = layer + ".weight"
        self.weights[key] = lambda: function(self.base[key])

    def behind(self, layer, function):
        """The layer's output y is function(x, y), x being its input."""
        self.modules[layer].register_forward_hook(lambda _module, inputs, y: function(inputs[0], y))

    def before(self, layer, function):
        self.modules[layer].register_forward_pre_hook(lambda _module, inputs: (function(inputs[0]), *inputs[1:]))

    # ---- what it asks ----

    def layers(self, kind):
        return [(n, m) for n, m in self.modules.items() if isinstance(m, kind) and n != self.head]

    def convs(self, scope="all"):
        """`spatial`: kernels larger than 1x1; `inner`: those but for the stem; `dense`: all but depthwise ones."""
        convs = self.layers(nn.Conv2d)
        spatial = {n for n, m in convs if m.weight[0, 0].numel() > 1}
        chosen = {"all": {n for n, _ in convs}, "spatial": spatial, "inner": spatial - {convs[0][0]},
                  "dense": {n for n, m in convs if not (m.groups > 1 and m.weight.shape[1] == 1)}}[scope]
        return [(n, m) for n, m in convs if n in chosen]

    def norms(self):
        return self.layers((nn.BatchNorm2d, nn.LayerNorm))

    def blocks(self):
        """Names of the modules that make up each block, with what lies between two blocks in the one behind, and the
        numbers of the blocks that begin a stage."""
        net, kind = self.net, self.family
        if kind == "resnet":
            stages = [["layer%d.%d" % (s, b) for b in range(len(getattr(net, "layer%d" % s)))] for s in range(1, 5)]
        elif kind == "mobilenet_v2":
            stages = [["features.%d" % i for i in s] for s in (range(1, 2), range(2, 4), range(4, 7), range(7, 14), range(14, 18))]
        elif kind == "convnext":
            stages = [["features.%d.%d" % (s, b) for b in range(len(net.features[s]))] for s in (1, 3, 5, 7)]
        else:
            stages = [["features.denseblock%d.denselayer%d" % (s, b + 1) for b in range(len(getattr(net.features, "denseblock%d" % s)))]
                      for s in range(1, 5)]
        return stages

    def behind_blocks(self):
        """What lies between the last block and the head."""
        return {"resnet": [], "mobilenet_v2": ["features.18"], "convnext": ["classifier.0"], "densenet": ["features.norm5"]}[self.family]

    def before_stage(self, stage):
        """What lies between a stage's first block and the stage before it."""
        if self.family == "convnext" and stage > 0:
            return ["features.%d" % (2 * stage)]
        return ["features.transition%d" % stage] if self.family == "densenet" and stage > 0 else []

    def block_readers(self):
        """(name, layers that read its input) of every block."""
        have = []
        for s, names in enumerate(self.blocks()):
            for b, name in enumerate(names):
                between = self.before_stage(s) if b == 0 else []
                if self.family == "resnet":
                    layers = [name + ".conv1", name + ".downsample.0"]
                elif self.family == "mobilenet_v2":
                    layers = [name + ".conv.0.0"]
                elif self.family == "convnext":
                    layers = [n + ".0" for n in between] or [name + ".block.0"]
                else:
                    layers = [n + ".norm" for n in between] or [name + ".norm1"]
                have.append((name, [n for n in layers if n in self.modules]))
        return have

    # ---- what is computed ----

    def logits(self, images):
        made = {key: function() for key, function in self.weights.items()}
        return torch.func.functional_call(self.net, made, (images,))


# ---- what is trained ----

def linear(t):
    pass


def everything(t, statistics=True):
    t.batch = statistics
    for key in t.base:
        t.train(key)


def norm(t):
    for name, _ in t.norms():
        t.train(name + ".weight")
        t.train(name + ".bias")


def bitfit(t):
    for key in t.base:
        if key.endswith(".bias"):
            t.train(key)


def partial(t, blocks=1, stages=0):
    names = t.blocks()
    if stages:
        chosen = [n for s in names[-stages:] for n in s]
        for s in range(len(names) - stages, len(names)):
            chosen += t.before_stage(s)
    else:
        chosen = [n for s in names for n in s][-blocks:]
    for key in t.base:
        if any(key.startswith(n + ".") for n in chosen + t.behind_blocks()):
            t.train(key)


# ---- weights ----

def projection(t, scope="all", linear=False, bias=False, rank=0):
    chosen = t.convs(scope) + (t.layers(nn.Linear) if linear else [])
    for name, module in chosen:
        shape = module.weight.shape[:2]
        if rank:
            delta = product(t.add(name + ".gate_u", (shape[0], rank)), t.add(name + ".gate_v", (rank, shape[1])))
        else:
            gate = t.add(name + ".gate", shape)
            delta = lambda gate=gate: gate
        window = (...,) + (None,) * (module.weight.dim() - 2)
        t.change(name, lambda w, delta=delta, window=window: w * (1 + delta())[window])
        if bias and module.bias is not None:
            t.train(name + ".bias")


def product(left, right):
    return lambda: left @ right


def low_rank(t, name, conv, r):
    """B A, group by group: [O, I/G, kh, kw]. A is a convolution to r channels in each group, B a 1x1 one back."""
    o, i, kh, kw = conv.weight.shape
    g = conv.groups
    a = t.add(name + ".lora_A.weight", (g * r, i, kh, kw))
    b = t.add(name + ".lora_B.weight", (o, r, 1, 1))
    return lambda: torch.einsum("gor,grx->gox", b.reshape(g, o // g, r), a.reshape(g, r, -1)).reshape(o, i, kh, kw)


def lora(t, r=8, alpha=16, scope="all"):
    for name, conv in t.convs(scope):
        delta = low_rank(t, name, conv, r)
        t.change(name, lambda w, delta=delta: w + alpha / r * delta())


def dora(t, r=8, alpha=16):
    for name, conv in t.convs():
        delta = low_rank(t, name, conv, r)
        start = conv.weight.detach().flatten(1).norm(dim=1)
        magnitude = start.clone().requires_grad_(True)
        t.trained[name + ".lora_magnitude_vector"] = magnitude

        def changed(w, delta=delta, magnitude=magnitude):
            v = w + alpha / r * delta()
            length = v.flatten(1).norm(dim=1).detach()
            return v * (magnitude / length)[:, None, None, None]
        t.change(name, changed)


def loha(t, r=8, alpha=8):
    """Hyeon-Woo et al., 2022, arXiv 2108.06098, as LyCORIS and peft have it for convolutions: W is [O, I/G kh kw]."""
    for name, conv in t.convs():
        o, columns = conv.weight.shape[0], conv.weight[0].numel()
        a, b = ((t.add("%s.hada_w%d_a" % (name, i), (o, r)), t.add("%s.hada_w%d_b" % (name, i), (r, columns))) for i in (1, 2))
        t.change(name, lambda w, a=a, b=b: w + alpha / r * ((a[0] @ a[1]) * (b[0] @ b[1])).reshape(w.shape))


def factors(n):
    """Two factors of n, as near to each other as can be, the smaller one first."""
    small = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return small, n // small


def lokr(t, r=8, alpha=8):
    """Edalati et al., 2022, arXiv 2212.10650, as LyCORIS and peft have it: W1 (outer) Kronecker W2, the latter of low rank
    where that is smaller."""
    for name, conv in t.convs():
        o, i, kh, kw = conv.weight.shape
        (o1, o2), (i1, i2) = factors(o), factors(i)
        outer = t.add(name + ".lokr_w1", (o1, i1))
        if r < max(o2, i2) / 2:
            inner = product(t.add(name + ".lokr_w2_a", (o2, r)), t.add(name + ".lokr_w2_b", (r, i2 * kh * kw)))
            scale = alpha / r
        else:
            full = t.add(name + ".lokr_w2", (o2, i2, kh, kw))
            inner, scale = (lambda full=full: full), 1.0

        def changed(w, outer=outer, inner=inner, scale=scale, shape=(o2, i2, kh, kw)):
            return w + scale * torch.einsum("ab,cdxy->acbdxy", outer, inner().reshape(shape)).reshape(w.shape)
        t.change(name, changed)


def convlora(t, r=8, alpha=16):
    for name, conv in t.convs():
        o, i, k, _ = conv.weight.shape
        a = t.add(name + ".lora_A", (r * k, i * conv.groups * k), 0.05)
        b = t.add(name + ".lora_B", (o // conv.groups * k, r * k), 0.05)
        t.change(name, lambda w, a=a, b=b: w + alpha / r * (b @ a).reshape(w.shape))


def piggyback(t, threshold=5e-3):
    """Mallya et al., 2018, arXiv 1801.06519: the mask's gradient is taken for that of m."""
    for name, conv in t.convs():
        m = t.add(name + ".mask", conv.weight.shape, low=0.0, high=1e-2)
        t.change(name, lambda w, m=m: w * ((m > threshold).to(w.dtype) - m).detach() + w * m)


def atoms(t, m=9):
    """Filters as sums of m atoms, the coefficients frozen. Names, signs and order of atoms are nobody's: what is trained
    starts at zero, the change of the atoms."""
    for name, conv in t.convs("spatial"):
        w = conv.weight.detach()
        filters = w.reshape(-1, w[0, 0].numel())
        directions = torch.linalg.svd(filters, full_matrices=False)[2][:m]
        alpha = filters @ directions.T
        change = torch.zeros_like(directions).requires_grad_(True)
        t.trained[name + ".atoms"] = change
        t.change(name, lambda w, alpha=alpha, change=change: w + (alpha @ change).reshape(w.shape))


# ---- outputs ----

def per_channel(vector):
    return vector[:, None, None]


def ia3(t):
    for name, conv in t.convs():
        delta = t.add(name + ".ia3", (conv.out_channels,))
        t.behind(name, lambda _x, y, delta=delta: y * per_channel(1 + delta))


def ssf(t, norms=False):
    for name, conv in t.convs():
        delta, shift = t.add(name + ".ssf_scale", (conv.out_channels,)), t.add(name + ".ssf_shift", (conv.out_channels,))
        t.behind(name, lambda _x, y, d=delta, o=shift: y * per_channel(1 + d) + per_channel(o))
    for name, module in t.norms() if norms else []:
        scale = t.add(name + ".ssf.scale", module.weight.shape, low=0.8, high=1.2)
        shift = t.add(name + ".ssf.shift", module.weight.shape)
        # torchvision's LayerNorm2d is a LayerNorm, but its channels come first.
        first = isinstance(module, nn.BatchNorm2d) or type(module).__name__ == "LayerNorm2d"
        shaped = per_channel if first else (lambda v: v)
        t.behind(name, lambda _x, y, f=scale, o=shift, s=shaped: y * s(f) + s(o))


# ---- layers ----

def conv_adapter(t, gamma=4, sequential=False):
    """Chen et al., 2022, arXiv 2208.07463; the ReLU is smooth here, as all of the network's. The factor for each channel is
    one plus a parameter."""
    for name, conv in t.convs("inner"):
        inputs, outputs = conv.out_channels if sequential else conv.in_channels, conv.out_channels
        hidden = max(1, inputs // gamma)
        groups = math.gcd(inputs, hidden)
        down = t.add(name + ".adapter_down.weight", (hidden, inputs // groups, *conv.kernel_size))
        down_bias = t.add(name + ".adapter_down.bias", (hidden,))
        up, up_bias = t.add(name + ".adapter_up.weight", (outputs, hidden, 1, 1)), t.add(name + ".adapter_up.bias", (outputs,))
        delta = t.add(name + ".adapter_up.scale", (outputs,))
        if sequential:  # the map keeps its size: where a window is even, the odd pixel is below and at the right
            over = [k - 1 for k in conv.kernel_size]
            window = ((1, 1), [over[1] // 2, over[1] - over[1] // 2, over[0] // 2, over[0] - over[0] // 2])
        else:
            window = (conv.stride, [conv.padding[1]] * 2 + [conv.padding[0]] * 2)

        def adapted(x, y, d=down, db=down_bias, u=up, ub=up_bias, s=delta, stride=window[0], padding=window[1], groups=groups):
            z = F.silu(F.conv2d(F.pad(y if sequential else x, padding), d, db, stride, 0, 1, groups))
            return y + per_channel(1 + s) * F.conv2d(z, u, ub)
        t.behind(name, adapted)


def residual_adapter(t):
    """Rebuffi et al., 2018, arXiv 1803.10082: a 1x1 convolution in parallel, with the groups of its convolution."""
    for name, conv in t.convs("inner"):
        o, i = conv.weight.shape[:2]
        if conv.padding[0] == 0 and conv.stride[0] > 1:  # ConvNeXt's 2x2 of stride 2: the pixel where its window begins
            assert conv.stride == conv.kernel_size
        weight = t.add(name + ".adapter.weight", (o, i, 1, 1))
        t.behind(name, lambda x, y, w=weight, c=conv: y + F.conv2d(x, w, None, c.stride, 0, 1, c.groups))


def repadapter(t, r=8):
    """Luo et al., 2023, arXiv 2302.08106, in front of the layers that read a block's input; what skips the block reads
    that as it was."""
    for name, layers in t.block_readers():
        first = t.modules[layers[0]]
        channels = first.in_channels if isinstance(first, nn.Conv2d) else first.weight.numel()
        groups = math.gcd(2, math.gcd(channels, r))
        a, a_bias = t.add(name + ".adapter_a.weight", (r, channels, 1, 1)), t.add(name + ".adapter_a.bias", (r,))
        b, b_bias = t.add(name + ".adapter_b.weight", (channels, r // groups, 1, 1)), t.add(name + ".adapter_b.bias", (channels,))

        def adapted(x, a=a, ab=a_bias, b=b, bb=b_bias, groups=groups):
            return x + F.conv2d(F.conv2d(x, a, ab), b, bb, groups=groups)
        for layer in layers:
            t.before(layer, adapted)


# ---- losses ----

def l2sp(t, alpha=0.1, beta=0.01):
    """Two steps: there is nothing to pull back before the first."""
    everything(t)
    t.steps = 2
    start = {k: p.detach().clone() for k, p in t.base.items()}
    head = lambda key: key.startswith(t.head + ".")
    t.penalty = lambda: sum(beta / 2 * p.square().sum() if head(k) else alpha / 2 * (p - start[k]).square().sum()
                            for k, p in t.base.items())


def bss(t, k=1, eta=1e-3):
    everything(t)
    kept = {}
    t.before(t.head, lambda x: kept.update(features=x) or x)
    t.penalty = lambda: eta * torch.linalg.svdvals(kept["features"])[-k:].square().sum()


# slug: (method, what `heirloom inspect` counts on torchvision's ResNet-50 beside the head; None: it has no such figure)
ROWS = {
    "linear": (linear, 0),
    "full": (everything, 23508032),
    "norm": (norm, 53120),
    "projection": (projection, 13385920),
    "projection-spatial": (lambda t: projection(t, scope="spatial"), 1257664),
    "projection-dense": (lambda t: projection(t, scope="dense"), 13385920),
    "projection-linear-bias": (lambda t: projection(t, linear=True, bias=True), 13385920),
    "projection-rank": (lambda t: projection(t, rank=2), None),
    "partial-block": (partial, 4462592),
    "partial-stage": (lambda t: partial(t, stages=1), 14964736),
    "bitfit": (bitfit, 26560),
    "ia3": (ia3, 26560),
    "ssf": (ssf, 53120),
    "ssf-norms": (lambda t: ssf(t, norms=True), 106240),
    "lora": (lora, 635544),
    "lora-spatial": (lambda t: lora(t, scope="inner"), 302080),
    "dora": (dora, 662104),
    "loha": (loha, 1271088),
    "lokr": (lokr, 63392),
    "convlora": (convlora, 901784),
    "piggyback": (piggyback, 23454912),
    "atoms": (atoms, 1737),
    "conv-adapter": (conv_adapter, 356848),
    "conv-adapter-sequential": (lambda t: conv_adapter(t, sequential=True), 356848),
    "residual-adapter": (residual_adapter, 1257472),
    "repadapter": (repadapter, 170688),
    "l2sp": (l2sp, 23508032),
    "bss": (bss, 23508032),
}
