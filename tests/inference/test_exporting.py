from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.config import ConfigError
from cnnexp.inference import FORMATS, MissingExtraError, TrainedNetwork, export, load_trained
from cnnexp.runs import RunFolder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # of exporters, which are others' code


@pytest.fixture(scope="module")
def trained(digits_run: RunFolder) -> TrainedNetwork:
    return load_trained(digits_run)


def _images(trained: TrainedNetwork) -> torch.Tensor:
    return torch.rand(3, *trained.shape, generator=torch.Generator().manual_seed(5))


def test_onnx_gives_the_same_logits_in_onnxruntime(trained: TrainedNetwork, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file, difference = export(trained, "onnx", tmp_path / "net.onnx")
    assert difference < 1e-4
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    images = _images(trained)
    (logits,) = session.run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), trained.classifier(images), atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == [str(n) for n in range(10)]
    assert about["input"] == "float32 (N, 1, 28, 28) in 0…1"


def test_onnx_is_checked_without_onnxruntime_too(
    trained: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    _, difference = export(trained, "onnx", tmp_path / "net.onnx")
    assert 0 <= difference < 1e-4


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11
def test_torch_export_is_loaded_by_torch_alone(trained: TrainedNetwork, tmp_path: Path) -> None:
    file, _ = export(trained, "torch_export", tmp_path / "net.pt2")
    extra = {"classes.txt": ""}
    module = torch.export.load(file, extra_files=extra).module()
    images = _images(trained)
    assert torch.allclose(module(images), trained.classifier(images), atol=1e-5)
    assert json.loads(extra["classes.txt"]) == [str(n) for n in range(10)]


def test_what_torch_warns_of_its_own_reading_is_not_shown(
    trained: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.11 warns of it once a process, so that it is said here again."""
    load = torch.export.load

    def warned(file: Path) -> Any:
        warnings.warn("The given buffer is not writable, and PyTorch does not …", stacklevel=2)
        return load(file)

    monkeypatch.setattr(torch.export, "load", warned)
    file, _ = export(trained, "torch_export", tmp_path / "net.pt2")
    assert file.exists()


def test_safetensors_hold_every_number(trained: TrainedNetwork, tmp_path: Path) -> None:
    safe = pytest.importorskip("safetensors.torch")
    file, difference = export(trained, "safetensors", tmp_path / "net.safetensors")
    assert difference == 0
    held, ours = safe.load_file(file), trained.classifier.state_dict()
    assert held.keys() == {name for name in ours if name in held}
    assert {n for n in ours if n.startswith("network.")} <= held.keys()
    assert all(torch.equal(held[name], ours[name]) for name in held)


@pytest.mark.parametrize("form", FORMATS)
def test_other_logits_leave_nothing_behind(
    form: str, trained: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: a format that writes one number wrongly is found out."""
    ending, write = FORMATS[form]

    def wrong(*given: Any) -> Any:
        run = write(*given)
        return lambda images: run(images) + torch.eye(10)[0] * 1e-2

    monkeypatch.setitem(FORMATS, form, (ending, wrong))
    with pytest.raises(RuntimeError, match=r"gives other logits: 0\.0[01]\d* apart; nothing was"):
        export(trained, form, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(
    trained: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cnnexp\[export\]'"):
        export(trained, "safetensors", tmp_path / "net")
    with pytest.raises(ConfigError, match="format=h5: must be one of onnx, torch_export, safet"):
        export(trained, "h5")
    with pytest.raises(ConfigError, match="there is no folder"):
        export(trained, "onnx", tmp_path / "nowhere" / "net")
    with pytest.raises(ConfigError, match=r"is a folder; name a file such as .*model\.onnx"):
        export(trained, "onnx", tmp_path)
