"""The well-known recipe for 99 % in one epoch: a small network, Adam with quick averages, one cycle.

Convolutions of 24 channels (5×5) and 32 channels (3×3), each with pooling, and 256 hidden units; batch 256;
Adam with β (0.7, 0.9), its learning rate in one cycle up to 0.01. ``trained`` is the time from the data in
memory to the trained network.
"""

from __future__ import annotations

import time

import torch
from mnist import asked, parts, say
from plain_torch import accuracy, tensors
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 256


def network() -> nn.Sequential:
    """Two blocks of convolution, pooling and ReLU, one hidden layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)),
    )


def train(images: Tensor, labels: Tensor, way: str, seed: int, epochs: int = 1) -> nn.Module:
    """The trained network; it says when its first step is done, and how long all of them took.

    Args:
        images: (N, 1, 28, 28), normalised.
        labels: (N,) of 0 … 9.
        way: ``NCHW``, ``channels_last`` or ``bfloat16``.
        seed: Of weights and order.
        epochs: One is the recipe.
    """
    torch.manual_seed(seed)
    layout = torch.contiguous_format if way == "NCHW" else torch.channels_last
    model: nn.Module = network().to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    begin, begin_cpu = time.perf_counter(), time.process_time()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.7, 0.9))
    steps = -(-len(images) // BATCH) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    for epoch in range(1, epochs + 1):
        for i, chosen in enumerate(torch.randperm(len(images)).split(BATCH)):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "bfloat16"):
                logits = model(images[chosen].contiguous(memory_format=layout))
                loss = F.cross_entropy(logits, labels[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
            if epoch == 1 and i == 0:
                say("first step")
        if epoch < epochs:
            say("epoch", epoch, float("nan"))
    say("trained", time.perf_counter() - begin, time.process_time() - begin_cpu)
    return model


def main() -> None:
    """Train for one epoch on all 60,000 images."""
    task = asked("NCHW", "channels_last", "bfloat16")
    layout = torch.contiguous_format if task.way == "NCHW" else torch.channels_last
    (images, labels), held_out, test = (tensors(part) for part in parts(task.data, task.seed))
    images, labels = torch.cat([images, held_out[0]]), torch.cat([labels, held_out[1]])
    model = train(images, labels, task.way, task.seed, task.epochs)
    found = accuracy(model, *test, layout)
    say("epoch", task.epochs, found)
    say("test", found)


if __name__ == "__main__":
    main()
