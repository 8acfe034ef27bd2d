"""The network and the settings of PyTorch's own MNIST example, until its test accuracy is 99.0 %.

Two convolutions, pooling, dropout, two linear layers; Adadelta with learning rate 1, which falls by 0.7 an
epoch; batch 64; torchvision's MNIST and a DataLoader (github.com/pytorch/examples, folder mnist). It reads
the test images after each epoch, as the example does.
"""

from __future__ import annotations

import time

import torch
from mnist import DEVIATION, MEAN, asked, say
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

ENOUGH = 0.99


def network() -> nn.Sequential:
    """1.2 million parameters, most of them in the first linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(1)),
        *(nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
        nn.LogSoftmax(1),
    )


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """The share of the test images whose class is right."""
    model.eval()
    right = [model(images).argmax(1) == labels for images, labels in loader]
    model.train()
    return float(torch.cat(right).float().mean())


def main() -> None:
    """Train until enough, at most ``--epochs`` epochs."""
    task = asked()
    torch.manual_seed(task.seed)
    transform = Compose([ToTensor(), Normalize((MEAN,), (DEVIATION,))])
    train = DataLoader(MNIST(str(task.data), True, transform), batch_size=64, shuffle=True)
    test = DataLoader(MNIST(str(task.data), False, transform), batch_size=1000)
    model = network()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    begin, begin_cpu, found = time.perf_counter(), time.process_time(), 0.0
    for epoch in range(1, task.epochs + 1):
        for i, (images, labels) in enumerate(train):
            optimizer.zero_grad()
            F.nll_loss(model(images), labels).backward()
            optimizer.step()
            if epoch == 1 and i == 0:
                say("first step")
        found = accuracy(model, test)
        say("epoch", epoch, found)
        schedule.step()
        if found >= ENOUGH:
            break
    say("trained", time.perf_counter() - begin, time.process_time() - begin_cpu)
    say("test", found)


if __name__ == "__main__":
    main()
