"""The article's network and settings as a plain PyTorch loop, the data as one tensor."""

from __future__ import annotations

import torch
from mnist import Part, asked, parts, say
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 128


def network() -> nn.Sequential:
    """Four blocks of convolution, ReLU and pooling, one linear layer."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((1, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))


def tensors(part: Part) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) and labels."""
    return torch.from_numpy(part.images).unsqueeze(1), torch.from_numpy(part.labels)


@torch.no_grad()
def accuracy(
    model: nn.Module, images: Tensor, labels: Tensor, layout: torch.memory_format
) -> float:
    """The share of ``images`` whose class is right."""
    model.eval()
    right = 0
    for batch, wanted in zip(images.split(1000), labels.split(1000), strict=True):
        right += int((model(batch.contiguous(memory_format=layout)).argmax(1) == wanted).sum())
    model.train()
    return right / len(labels)


def main() -> None:
    """Train, validate after each epoch, test at the end."""
    task = asked("NCHW", "channels_last", "bfloat16", "compile")
    torch.manual_seed(task.seed)
    layout = torch.contiguous_format if task.way == "NCHW" else torch.channels_last
    model: nn.Module = network().to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    step_model = torch.compile(model) if task.way == "compile" else model
    (images, labels), held_out, test = (tensors(part) for part in parts(task.data, task.seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, task.epochs + 1):
        for i, chosen in enumerate(torch.randperm(len(images)).split(BATCH)):
            batch = images[chosen].contiguous(memory_format=layout)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=task.way == "bfloat16"):
                loss = F.cross_entropy(step_model(batch), labels[chosen])
            loss.backward()
            optimizer.step()
            if epoch == 1 and i == 0:
                say("first step")
        say("epoch", epoch, accuracy(model, *held_out, layout))
    say("test", accuracy(model, *test, layout))


if __name__ == "__main__":
    main()
