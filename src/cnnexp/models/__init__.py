"""Networks, each readable on one screen, made of plain ``torch.nn`` layers.

``cnnexp.nn.replace_layers`` gives any of them, and any network of yours, our backward.
"""

from cnnexp.models.lenet5 import LeNet5
from cnnexp.models.seed_cnn import SeedCNN

__all__ = ["LeNet5", "SeedCNN"]
