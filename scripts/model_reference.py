"""The networks of torchvision and timm that the zoo's models are equal to, and what is published with them."""
from unittest import mock

import timm
import torch
import torchvision
from torch import nn

LITE = ["efficientnet_lite%d" % i for i in range(5)]
UNTRAINED = ["seresnet18", "seresnet34", "seresnet101", "seresnet152"]  # without published weights
TIMM = ["seresnet50"] + UNTRAINED + LITE + ["tf_efficientnet_b%d" % i for i in range(8)]
NAMES = """mobilenet_v2
    resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d
    wide_resnet50_2 wide_resnet101_2
    vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn alexnet squeezenet1_0 squeezenet1_1
    densenet121 densenet161 densenet169 densenet201
    mobilenet_v3_large mobilenet_v3_small mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
    efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l
    regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf
    regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf
    googlenet inception_v3 shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    convnext_tiny convnext_small convnext_base convnext_large""".split() + TIMM

# ImageNet-1k accuracy of timm's default weights, from its results/results-imagenet.csv.
TIMM_TOP1 = {
    "efficientnet_lite0": 74.830, "efficientnet_lite1": 76.644, "efficientnet_lite2": 77.464,
    "efficientnet_lite3": 79.808, "efficientnet_lite4": 81.532, "seresnet50": 80.012,
    "tf_efficientnet_b0": 78.680, "tf_efficientnet_b1": 81.388, "tf_efficientnet_b2": 82.412,
    "tf_efficientnet_b3": 84.054, "tf_efficientnet_b4": 85.156, "tf_efficientnet_b5": 86.096,
    "tf_efficientnet_b6": 86.476, "tf_efficientnet_b7": 86.850,
}


# The network that timm has under other names of layers, and the epsilon of norms where timm's is another (it has 1e-5).
TWINS = {
    "mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_large": "mobilenetv3_large_100", "mobilenet_v3_small": "mobilenetv3_small_100",
    "mnasnet0_5": "mnasnet_050", "mnasnet0_75": "mnasnet_075", "mnasnet1_0": "mnasnet_100",
    "efficientnet_v2_s": "efficientnetv2_s", "efficientnet_v2_m": "efficientnetv2_m", "efficientnet_v2_l": "efficientnetv2_l",
    "regnet_x_400mf": "regnetx_004_tv", "regnet_x_800mf": "regnetx_008", "regnet_x_1_6gf": "regnetx_016",
    "regnet_x_3_2gf": "regnetx_032", "regnet_x_8gf": "regnetx_080", "regnet_x_16gf": "regnetx_160", "regnet_x_32gf": "regnetx_320",
    "regnet_y_400mf": "regnety_004", "regnet_y_800mf": "regnety_008_tv", "regnet_y_1_6gf": "regnety_016",
    "regnet_y_3_2gf": "regnety_032", "regnet_y_8gf": "regnety_080_tv", "regnet_y_16gf": "regnety_160", "regnet_y_32gf": "regnety_320",
}
SAME = ("resne", "wide_resnet", "densenet", "vgg", "inception_v3", "efficientnet_b", "convnext")  # called as here
EPS = {"mobilenet_v3": 1e-3, "efficientnet_v2": 1e-3, "efficientnet_b5": 1e-3, "efficientnet_b6": 1e-3, "efficientnet_b7": 1e-3}


def timm_twin(name):
    """timm's name and options for the network; None where it has none."""
    if name in TIMM:
        return timm_name(name), {}
    twin = TWINS.get(name, name if name.startswith(SAME) else None)
    eps = next((e for start, e in EPS.items() if name.startswith(start)), None)
    return twin and (twin, {"bn_eps": eps} if eps else {})


def timm_meta(name, classes, channels=3):
    """timm's network without values, for images of so many channels."""
    twin, options = timm_twin(name)
    with torch.device("meta"):
        return timm.create_model(twin, num_classes=classes, in_chans=channels, **options)


def adapted(net, channels):
    """A network whose first convolution is made to fit images of so many channels, as timm does it."""
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    first.weight = nn.Parameter(timm.models.adapt_input_conv(channels, first.weight.detach().clone()))
    first.in_channels = channels
    return net


def timm_name(name):
    return "tf_" + name if name in LITE else name


def scaled(net, width):
    """All channels and hidden units of a VGG or an AlexNet multiplied by `width`, but for the image's and the classes."""
    last = net.classifier[-1]
    for part in (net.features, net.classifier):
        for index, m in enumerate(part):
            if isinstance(m, nn.Conv2d):
                channels = m.in_channels if m.in_channels == 3 else int(m.in_channels * width)
                part[index] = nn.Conv2d(channels, int(m.out_channels * width), m.kernel_size, m.stride, m.padding)
            elif isinstance(m, nn.BatchNorm2d):
                part[index] = nn.BatchNorm2d(int(m.num_features * width))
            elif isinstance(m, nn.Linear):
                part[index] = nn.Linear(int(m.in_features * width), m.out_features if m is last else int(m.out_features * width))
    return net


def create(name, classes=1000, width=1.0):
    if width != 1.0:
        return scaled(torchvision.models.get_model(name, weights=None, num_classes=classes), width)
    if name in TIMM:
        return timm.create_model(timm_name(name), num_classes=classes)
    options = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **options)


def meta(name, classes=1000):
    """The network without values."""
    plan = torchvision.models.regnet.BlockParams
    original = plan.from_init_params

    def on_cpu(**options):  # RegNet's widths are computed with tensors
        with torch.device("cpu"):
            return original(**options)

    with torch.device("meta"), mock.patch.object(plan, "from_init_params", on_cpu):
        return create(name, classes)


def counts(name):
    """Parameters with 1000 classes, weights of convolutions, gates of all and of spatial convolutions."""
    net = meta(name)
    convs = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    gates = [w.shape[0] * w.shape[1] for w in convs]
    spatial = [w.shape[0] * w.shape[1] for w in convs if w[0, 0].numel() > 1]
    return [sum(p.numel() for p in net.parameters()), sum(w.numel() for w in convs), sum(gates), sum(spatial)]


def state_lines(net):
    """"KEY TYPE SHAPE" for every tensor of a network's state dict, sorted."""
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    return sorted("%s %s %s" % (key, kinds[t.dtype], list(t.shape)) for key, t in net.state_dict().items())


# torchvision's other weights, by timm's tags for them.
TAGS = {"tv2_in1k": "IMAGENET1K_V2", "swag_ft_in1k": "IMAGENET1K_SWAG_E2E_V1", "swag_lc_in1k": "IMAGENET1K_SWAG_LINEAR_V1"}


def tags(name):
    """The tags of the weights that are published beside the default ones."""
    if name in TIMM:
        return []
    have = torchvision.models.get_model_weights(name).__members__
    return [tag for tag, member in TAGS.items() if member in have]


def published(name, tag=None):
    """The evaluation transform of the default weights or those of a tag, their file and their accuracy."""
    if name in TIMM:
        cfg = timm.models.get_pretrained_cfg(timm_name(name))
        size = cfg.input_size[1]
        return {"size": size, "resize": int(size / cfg.crop_pct), "interpolation": cfg.interpolation, "mean": cfg.mean,
                "std": cfg.std, "file": cfg.url.rsplit("/", 1)[-1] or "-", "top1": TIMM_TOP1.get(name, 0)}
    weights = torchvision.models.get_model_weights(name)[TAGS[tag] if tag else "IMAGENET1K_V1"]
    t = weights.transforms()
    mean, std = t.mean, t.std
    if name in ("googlenet", "inception_v3"):
        # These bring their input, normalised as all others, to mean and deviation 0.5 (transform_input).
        mean = std = [0.5] * 3
    return {"size": t.crop_size[0], "resize": t.resize_size[0], "interpolation": t.interpolation.value, "mean": mean,
            "std": std, "file": weights.url.rsplit("/", 1)[1],
            "top1": weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]}
