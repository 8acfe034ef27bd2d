"""What is traced is what torch's own autograd says, layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cnnexp.explanation import load_untrained, numbered_image, trace
from cnnexp.nn import replace_layers
from tests.explanation.conftest import SMALL, traced

MODELS = {
    "seed_cnn": ("model=seed_cnn",),
    "seed_cnn normed": ("model=seed_cnn", "model.norm=group", "model.activation=gelu"),
    "seed_cnn sigmoid": ("model.activation=sigmoid", "model.channels=[4,6]", "model.dropout=0.3"),
    "seed_cnn even": (
        *("model.kernel_size=4", "model.channels=[4,6]", "model.activation=leaky_relu"),
        "model.spatial_dropout=0.2",
    ),
    "lenet5": ("model=lenet5",),
    "resnet": ("model=resnet",),
    "vgg": ("model=vgg",),
    "tiny": ("model=tiny",),
    "torchvision": ("model=torchvision", "data.image_size=32", "data.channels=3"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch's own
def test_every_gradient_is_that_of_autograd(name: str) -> None:
    ours, images = load_untrained([*SMALL, *MODELS[name]])
    pixels = numbered_image(images, 3).pixels.double()
    network = ours.classifier.double().network
    label = 2
    found = traced(ours, pixels, label)
    # torch's own layers and autograd, each input and output kept with its gradient
    twin = replace_layers(copy.deepcopy(network), "native").requires_grad_(True)
    kept: list[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def keep(path: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        own = y.clone()  # an Identity hands on what others read as well
        kept.append((path, x.detach().clone(), y.detach().clone(), own))
        return own.clone()  # to which torchvision's ResNet adds in place

    for path, layer in twin.named_modules():
        if not list(layer.children()):
            if hasattr(layer, "inplace"):
                layer.inplace = False  # pyright: ignore[reportArgumentType]
            layer.register_forward_hook(lambda _, x, y, path=path: keep(path, x[0], y))
    x = ours.classifier.normalise(pixels.unsqueeze(0)).requires_grad_()
    loss = nn.functional.cross_entropy(twin(x), torch.tensor([label]))
    outputs = [y for *_, y in kept]
    grads = torch.autograd.grad(loss, [x, *outputs, *twin.parameters()])
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    _close(found.grad_image, grads[0][0])
    assert [step.module for step in found.steps] == [path for path, *_ in kept]
    for step, (_, x_kept, y, _), grad in zip(found.steps, kept, grads[1:], strict=False):
        assert step.input is not None
        assert step.grad_output is not None
        _close(step.input, x_kept[0])
        _close(step.output, y[0])
        _close(step.grad_output, grad[0])
    of_parameters = dict(
        zip((n for n, _ in twin.named_parameters()), grads[1 + len(outputs) :], strict=True)
    )
    for step in found.steps:
        for part, grad in step.gradients.items():
            _close(grad, of_parameters[f"{step.module}.{part}"])


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = max(expected.abs().max().item(), 1e-30)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-10)


class _Shared(nn.Module):
    """One ReLU called twice, in place, and an input that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
        self.relu = nn.ReLU6(inplace=True)
        self.other = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.relu(self.first(x.flatten(1)))
        return self.relu(self.second(hidden)) + self.other(hidden)


def test_a_layer_that_is_called_twice_and_an_input_that_is_read_twice() -> None:
    network = _Shared().double()
    image = torch.randn(1, 2, 2, dtype=torch.float64)
    found = trace(network, image, 1)
    assert [s.module for s in found.steps] == ["first", "relu", "second", "relu", "other"]
    first, relu, second, again, other = found.steps
    assert (relu.uses, again.uses, second.uses) == (2, 2, 1)
    assert relu.kind == "ReLU6"
    assert relu.settings == {}
    assert relu.input is not None
    assert torch.equal(relu.input, first.output)  # what was there before it was computed in place
    assert torch.equal(relu.output, first.output.clamp(0, 6))
    # each gets its own share of the gradient, which together are that of what they read
    assert second.grad_input is not None
    assert other.grad_input is not None
    assert relu.grad_output is not None
    _close(second.grad_input + other.grad_input, relu.grad_output)
    assert first.grad_output is not None
    inside = (first.output > 0) & (first.output < 6)
    _close(first.grad_output, relu.grad_output * inside)


def test_the_network_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
    network[2].bias.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    found = trace(network, torch.ones(1, 2, 2), 0)
    assert network.training
    assert network[1].training
    assert not network[2].bias.requires_grad
    assert network[2].weight.requires_grad
    assert network[2].weight.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    dropout = found.steps[1]
    assert dropout.input is not None
    assert torch.equal(dropout.input, dropout.output)  # it evaluates
    assert set(found.steps[2].gradients) == {"weight", "bias"}


def test_the_label_is_the_predicted_class_unless_one_is_given() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    image = torch.randn(1, 2, 2)
    found = trace(network, image)
    assert found.label == int(found.logits.argmax())
    assert found.loss == pytest.approx(-found.probabilities[found.label].log().item(), rel=1e-5)
    hot = nn.functional.one_hot(torch.tensor(found.label), 3)
    torch.testing.assert_close(found.grad_logits, found.probabilities - hot)
    with pytest.raises(ValueError, match=r"label 3: the network's classes are 0…2"):
        trace(network, image, 3)


def test_a_part_that_the_loss_does_not_depend_on() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.idle(x.flatten(1))
            return self.used(x.flatten(1))

    idle, used = trace(Idle(), torch.ones(1, 2, 2), 0).steps
    assert (idle.grad_output, idle.grad_input) == (None, None)
    assert not idle.gradients["weight"].any()
    assert used.gradients["weight"].any()


@pytest.mark.parametrize(
    ("layer", "kind", "settings"),
    [
        (
            nn.Conv2d(2, 4, (4, 3), padding="same", dilation=(3, 1), groups=2),
            "Conv2d",
            # nine zeros above and below in all, the odd one below
            {"padding": [4, 5, 1, 1], "groups": 2, "stride": [1, 1], "dilation": [3, 1]},
        ),
        (nn.Conv2d(2, 4, 3, padding=(2, 1)), "Conv2d", {"padding": [2, 2, 1, 1]}),
        (nn.MaxPool2d(3, 2, 1), "MaxPool2d", {"kernel": [3, 3], "stride": [2, 2]}),
        (nn.AvgPool2d(2), "AvgPool2d", {"stride": [2, 2], "count_padding": True}),
        (nn.BatchNorm2d(2), "BatchNorm2d", {"mean": [0.0, 0.0], "variance": [1.0, 1.0]}),
        (nn.LeakyReLU(0.2), "LeakyReLU", {"slope": 0.2}),
        (nn.GELU(approximate="tanh"), "GELU", {"approximate": "tanh"}),
        (nn.Hardswish(), "Hardswish", {}),
    ],
)
def test_settings_are_in_plain_types(
    layer: nn.Module, kind: str, settings: dict[str, object]
) -> None:
    from cnnexp.explanation.formulas import kind_of, settings_of

    layer = replace_layers(layer)  # ours are known by torch's names
    assert kind_of(layer) == kind
    assert settings.items() <= settings_of(layer).items()
