"""Networks of torchvision, small ones made from its own classes and whole ones, all in float64.

What makes other people's networks differ is their structure: residual sums in place, dense
concatenations, auxiliary heads, squeeze and excitation, channel shuffles, grouped and dilated
convolutions, attention. The small versions keep the structure and lose the width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models, ops
from torchvision.models import (
    convnext,
    efficientnet,
    mobilenetv3,
    regnet,
    resnet,
    segmentation,
    vgg,
)
from torchvision.models._utils import IntermediateLayerGetter

__all__ = ["FULL", "NETWORKS", "SMALL", "Network", "build", "draw_images"]

CLASSES = 3


class Network(NamedTuple):
    """How a network is made, and the height and width of the images that it is given."""

    make: Callable[[], nn.Module]
    size: int


def _head(network: Any, channels: int, width: int = 8) -> nn.Module:
    """``network`` with a small classifier: that of AlexNet and VGG has 4096 neurons a layer."""
    network.avgpool = nn.AdaptiveAvgPool2d(2)
    network.classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(4 * channels, width),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(width, CLASSES),
    )
    return network.to_empty(device="cpu")


def _alexnet() -> nn.Module:
    with torch.device("meta"):
        return _head(models.AlexNet(CLASSES), 256)


def _vgg(batch_norm: bool) -> nn.Module:
    plan: list[str | int] = [4, "M", 6, 6, "M", 8, "M"]
    with torch.device("meta"):
        features = vgg.make_layers(plan, batch_norm)  # pyright: ignore[reportArgumentType]
        return _head(models.VGG(features, CLASSES, init_weights=False), 8)


def _resnet(block: Any = resnet.BasicBlock, **options: Any) -> nn.Module:
    return models.ResNet(block, [1, 1, 1, 1], CLASSES, **options)


def _mobilenet_v3() -> nn.Module:
    config = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    settings = [
        config(8, 3, 8, 8, True, "RE", 2, 1),
        config(8, 5, 16, 16, True, "HS", 2, 1),
        config(16, 5, 24, 16, True, "HS", 1, 2),
    ]
    return models.MobileNetV3(settings, 24, CLASSES)


def _efficientnet() -> nn.Module:
    settings = [
        efficientnet.FusedMBConvConfig(2, 3, 2, 8, 8, 2),
        efficientnet.MBConvConfig(4, 3, 2, 8, 16, 2),
        efficientnet.MBConvConfig(4, 5, 1, 16, 16, 1),
    ]
    return models.EfficientNet(settings, 0.2, 0.2, CLASSES, last_channel=24)


def _densenet(memory_efficient: bool = False) -> nn.Module:
    blocks: Any = (2, 2)  # whole ones have four
    return models.DenseNet(4, blocks, 8, 2, 0.1, CLASSES, memory_efficient)


def _regnet() -> nn.Module:
    sizes = regnet.BlockParams.from_init_params(
        depth=4, w_0=8, w_a=8.0, w_m=2.0, group_width=4, se_ratio=0.25
    )
    return models.RegNet(sizes, CLASSES, stem_width=8)


def _convnext() -> nn.Module:
    settings = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 2)]
    return models.ConvNeXt(settings, 0.1, num_classes=CLASSES)


def _swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=CLASSES)


def _vit(size: int = 16) -> nn.Module:
    return models.VisionTransformer(size, 8, 2, 2, 8, 16, dropout=0.1, num_classes=CLASSES)


def _maxvit() -> nn.Module:
    return models.MaxVit((32, 32), 8, 2, [8, 16], [1, 1], 8, 0.1, num_classes=CLASSES)


def _backbone() -> IntermediateLayerGetter:
    features: Any = _mobilenet_v3().features
    return IntermediateLayerGetter(features, {"3": "out", "1": "aux"})


def _fcn() -> nn.Module:
    heads = segmentation.fcn.FCNHead(16, CLASSES), segmentation.fcn.FCNHead(8, CLASSES)
    return segmentation.FCN(_backbone(), *heads)


def _deeplab() -> nn.Module:
    head = segmentation.deeplabv3.DeepLabHead(16, CLASSES, (1, 2, 12))
    return segmentation.DeepLabV3(_backbone(), head, segmentation.fcn.FCNHead(8, CLASSES))


class _Pyramid(nn.Module):
    """torchvision's feature pyramid over a network with its frozen batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        body = _resnet(norm_layer=ops.FrozenBatchNorm2d)
        self.body = IntermediateLayerGetter(body, {"layer1": "fine", "layer2": "coarse"})
        self.pyramid = ops.FeaturePyramidNetwork([64, 128], 8)

    def forward(self, images: Tensor) -> Any:
        """(N, 3, H, W) → two maps, (N, 8, H/4, W/4) and (N, 8, H/8, W/8)."""
        return self.pyramid(self.body(images))


SMALL: dict[str, Network] = {
    "tiny_alexnet": Network(_alexnet, 63),
    "tiny_vgg": Network(partial(_vgg, False), 24),
    "tiny_vgg_bn": Network(partial(_vgg, True), 24),
    "tiny_resnet": Network(_resnet, 33),
    "tiny_resnext": Network(partial(_resnet, resnet.Bottleneck, groups=4, width_per_group=4), 33),
    "tiny_densenet": Network(_densenet, 32),
    "tiny_densenet_checkpointed": Network(partial(_densenet, True), 32),
    "tiny_squeezenet": Network(partial(models.SqueezeNet, "1_1", CLASSES), 33),
    "tiny_mobilenet_v2": Network(
        partial(models.MobileNetV2, CLASSES, 0.25, [[1, 16, 1, 1], [6, 32, 2, 2]]), 32
    ),
    "tiny_mobilenet_v2_of_one_block": Network(
        partial(models.MobileNetV2, CLASSES, 0.25, inverted_residual_setting=[[1, 16, 1, 1]]),
        32,
    ),
    "tiny_mobilenet_v3": Network(_mobilenet_v3, 32),
    "tiny_shufflenet": Network(
        partial(models.ShuffleNetV2, [2, 1, 1], [8, 16, 16, 32, 32], CLASSES), 64
    ),
    "tiny_mnasnet": Network(partial(models.MNASNet, 0.1, CLASSES), 64),
    "tiny_efficientnet": Network(_efficientnet, 32),
    "tiny_regnet": Network(_regnet, 64),
    "tiny_convnext": Network(_convnext, 32),
    "tiny_swin": Network(_swin, 32),
    "tiny_vit": Network(_vit, 16),
    "tiny_maxvit": Network(_maxvit, 32),
    "tiny_fcn": Network(_fcn, 32),
    "tiny_deeplab": Network(_deeplab, 32),
    "tiny_pyramid": Network(_Pyramid, 32),
}

_SIZES = {"alexnet": 63, "inception_v3": 107, "googlenet": 64}
_WHOLE = (
    *("alexnet", "vgg11_bn", "resnet18", "densenet121", "squeezenet1_1", "googlenet"),
    *("inception_v3", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
    *("mnasnet0_5", "efficientnet_b0", "regnet_y_400mf"),
)


def _whole(name: str) -> nn.Module:
    options: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    if name in ("googlenet", "inception_v3"):
        # the auxiliary head of Inception v3 needs images of 299 pixels
        options |= {"init_weights": False, "aux_logits": name == "googlenet"}
    return models.get_model(name, **options)


FULL: dict[str, Network] = {
    name: Network(partial(_whole, name), _SIZES.get(name, 64)) for name in _WHOLE
}
NETWORKS = {**SMALL, **FULL}


def build(name: str) -> nn.Module:
    """The network ``name``, of torch's own layers, in float64 and training, with drawn parameters.

    The parameters are drawn anew: at torchvision's biases of 0 and scales of 1e-6, a ReLU stands on
    its kink and whole branches vanish.
    """
    torch.manual_seed(0)
    network = NETWORKS[name].make().double().train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor_name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not tensor.is_floating_point():
                if tensor_name.endswith("num_batches_tracked"):
                    tensor.zero_()
                continue
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if tensor_name.endswith("running_var"):
                tensor.copy_(0.5 + drawn.abs())
            elif tensor.numel() == max(tensor.shape, default=1):  # a scale or a shift
                tensor.copy_(0.2 * drawn + (1.0 if tensor_name.endswith("weight") else 0.0))
            else:
                tensor.copy_(drawn * math.sqrt(2 / tensor[0].numel()))
    return network


def draw_images(name: str, count: int = 2) -> Tensor:
    """(count, 3, H, W) smooth noise in float64: of the size that the network ``name`` takes."""
    size = NETWORKS[name].size
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    return coarse + F.avg_pool2d(coarse, 3, 1, 1)
