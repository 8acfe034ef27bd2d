"""Write a network in a format that other programs read, and check that it gives the same logits there."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnexp.config.errors import ConfigError
from cnnexp.inference.network import TrainedNetwork
from cnnexp.nn import left_as_found
from cnnexp.runs.files import write_file
from cnnexp.version import __version__

Run = Callable[[Tensor], Tensor]  # images → logits, as the file gives them
_RTOL, _ATOL = 1e-4, 1e-5  # tolerance for logits, as other kernels sum in another order


class ExportError(RuntimeError):
    """The network cannot be exported, or the exported one gives other logits; no file is written."""


class MissingExtraError(ConfigError):
    """A package that the format needs is not installed."""


class PlainNetwork(nn.Module):
    """Map images (N, C, H, W) float32 in 0…1 to logits (N, classes): normalisation, then the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of ``images`` (N, C, H, W) float32 in 0…1."""
        return self.network((images - self.mean) / self.std)


def export(trained: TrainedNetwork, form: str, file: Path | None = None) -> tuple[Path, float]:
    """Write ``trained`` to ``file`` if the exported network gives the same logits.

    Args:
        trained: A network with plain layers (``backward="native"``).
        form: ``onnx`` (any number of images; class names in the metadata), ``torch_export``
            (``torch.export``'s .pt2) or ``safetensors`` (the state dict; everything else that is needed
            is in the metadata ``cnnexp``).
        file: The file to write; None for ``model.<ending>`` in the run folder.

    Returns:
        The file, and the greatest absolute difference of a logit.

    Raises:
        ConfigError: ``form`` is unknown, or the folder of ``file`` does not exist.
        MissingExtraError: A package is missing.
        ExportError: The network cannot be exported, or gives other logits there.
    """
    if form not in FORMATS:
        raise ConfigError(f"format={form}: must be one of {', '.join(FORMATS)}")
    ending, write = FORMATS[form]
    file = trained.folder.path / f"model.{ending}" if file is None else file
    if not file.parent.is_dir():
        raise ConfigError(f"output={file}: there is no folder {file.parent}")
    if file.is_dir():
        raise ConfigError(f"output={file}: is a folder; name a file such as {file}/model.{ending}")
    classifier = trained.classifier.cpu()
    model = PlainNetwork(classifier.network, classifier.mean, classifier.std).eval()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place) / f"model.{ending}"
        try:
            run = write(model, trained, scratch)
        except (ConfigError, OSError):
            raise
        except Exception as error:  # exporters raise exceptions of any class, with long messages
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            text = f"the network cannot be exported to {scratch.name}: {reason}"
            raise ExportError(text) from error
        difference = _greatest_difference(model, trained.shape, run)
        with scratch.open("rb") as content:
            write_file(file, lambda stream: shutil.copyfileobj(content, stream))
    return file, difference


def _greatest_difference(model: nn.Module, shape: tuple[int, int, int], run: Run) -> float:
    generator = torch.Generator().manual_seed(0)
    greatest = 0.0
    for count in (1, 7):
        images = torch.rand(count, *shape, generator=generator)
        with torch.inference_mode():
            ours = model(images)
        theirs = run(images)
        same_shape = theirs.shape == ours.shape
        gap = float((theirs - ours).abs().max()) if same_shape else math.inf
        if not same_shape or not torch.allclose(theirs, ours, rtol=_RTOL, atol=_ATOL):
            far = gap if same_shape else "another shape"
            raise ExportError(
                f"the exported network gives other logits: {far} apart; nothing was written"
            )
        greatest = max(greatest, gap)
    return greatest


def _needs(*modules: str) -> list[Any]:
    try:
        return [importlib.import_module(name) for name in modules]
    except ImportError as error:
        raise MissingExtraError(
            f"this format needs {error.name}: pip install 'cnnexp[export]'"
        ) from error


def _example(trained: TrainedNetwork) -> tuple[Tensor]:
    return (torch.zeros(2, *trained.shape),)


def _description(trained: TrainedNetwork) -> dict[str, str]:
    """The metadata that a user of the file needs besides the numbers."""
    return {
        "classes": json.dumps(list(trained.classes)),
        "input": f"float32 (N, {', '.join(map(str, trained.shape))}) in 0…1",
        "dataset": trained.dataset,
        "model": json.dumps(trained.config.get("model")),
        "cnnexp": __version__,
    }


def _onnx(model: PlainNetwork, trained: TrainedNetwork, file: Path) -> Run:
    onnx, _ = _needs("onnx", "onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the exporter's own internals
        program = torch.onnx.export(
            model,
            _example(trained),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    made = program.model_proto
    for key, value in _description(trained).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(made)
    onnx.save(made, str(file))
    return _onnx_runner(file)


def _onnx_runner(file: Path) -> Run:
    """Return a function that runs the file with onnxruntime or, without it, onnx's reference evaluator."""
    try:
        import onnxruntime
    except ImportError:
        (reference,) = _needs("onnx.reference")
        session = reference.ReferenceEvaluator(str(file))
    else:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(
        np.asarray(session.run(None, {"images": images.numpy()})[0])
    )


def _torch_export(model: PlainNetwork, trained: TrainedNetwork, file: Path) -> Run:
    program = torch.export.export(
        model, _example(trained), dynamic_shapes=({0: torch.export.Dim("N")},)
    )
    extra = {f"{key}.txt": value for key, value in _description(trained).items()}
    torch.export.save(program, file, extra_files=extra)
    with warnings.catch_warnings():  # torch 2.11's, of the bytes that it reads from the file itself
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return torch.export.load(file).module()


def _safetensors(model: PlainNetwork, trained: TrainedNetwork, file: Path) -> Run:
    (safe,) = _needs("safetensors.torch")
    whole = model.state_dict()
    state = {name: v.contiguous() for name, v in whole.items() if isinstance(v, Tensor)}
    safe.save_file(state, os.fspath(file), metadata=_description(trained))
    loaded = safe.load_file(os.fspath(file))

    def run(images: Tensor) -> Tensor:
        with left_as_found(model), torch.inference_mode():
            for name in state:  # so that the logits can only come from the file
                whole[name].zero_()
            model.load_state_dict({**whole, **loaded})
            return model(images)

    return run


FORMATS: dict[str, tuple[str, Callable[[PlainNetwork, TrainedNetwork, Path], Run]]] = {
    "onnx": ("onnx", _onnx),
    "torch_export": ("pt2", _torch_export),
    "safetensors": ("safetensors", _safetensors),
}
