"""Networks, each readable on one screen, made of plain ``torch.nn`` layers.

``cnnexp.nn.replace_layers`` gives the hand-derived backward to any of them, and to any other network.
"""

from cnnexp.models.fast_cnn import FastCNN
from cnnexp.models.given_network import (
    given_network,
    key_of_network,
    name_of_network,
    offered_network,
)
from cnnexp.models.init import initialise, lsuv
from cnnexp.models.lenet5 import LeNet5
from cnnexp.models.remembered import Remembered
from cnnexp.models.resnet import SmallResNet
from cnnexp.models.scatter_networks import ScatterCNN, ScatterLinear
from cnnexp.models.scattering import Scattering2d
from cnnexp.models.seed_cnn import SeedCNN
from cnnexp.models.tanh_cnn import TanhCNN
from cnnexp.models.torchvision_models import torchvision_model
from cnnexp.models.transfer import Transfer, transfer_weights
from cnnexp.models.vgg import TinyCNN, VGGLike
from cnnexp.models.whitened_cnn import WhitenedCNN

__all__ = [
    "FastCNN",
    "LeNet5",
    "Remembered",
    "ScatterCNN",
    "ScatterLinear",
    "Scattering2d",
    "SeedCNN",
    "SmallResNet",
    "TanhCNN",
    "TinyCNN",
    "Transfer",
    "VGGLike",
    "WhitenedCNN",
    "given_network",
    "initialise",
    "key_of_network",
    "lsuv",
    "name_of_network",
    "offered_network",
    "torchvision_model",
    "transfer_weights",
]
