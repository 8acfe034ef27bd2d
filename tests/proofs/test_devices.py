"""What the battery does on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import random

import pytest
import torch

from cnnexp import ops
from cnnexp.proofs import CASES, Case
from cnnexp.proofs.devices import judged_on, moved, twin_on
from cnnexp.proofs.measures import largest_error, values_and_gradients
from cnnexp.proofs.torch_twins import called

# torch's gradients of their means divide by the number of elements in Python on the device meta
DIVIDE_BY_NONE = {("huber_loss", "native"), ("mse_loss", "native")}
META, CUDA = torch.device("meta"), torch.device("cuda")


@pytest.mark.parametrize("op", CASES)
def test_a_case_goes_to_a_device_with_its_layout(op: str) -> None:
    draw = random.Random(op)
    for _ in range(20):
        case = CASES[op](draw)
        there = moved(case, META)
        assert moved(case, torch.device("cpu")) is case
        if there is None:
            continue
        for one, other in zip(case.tensors, there.tensors, strict=True):
            assert other.device == META
            assert (one.shape, one.stride(), one.dtype) == (
                other.shape,
                other.stride(),
                other.dtype,
            )
        tensors = [v for v in there.arguments.values() if isinstance(v, torch.Tensor)]
        assert all(each.device == META for each in tensors)
        assert there.arguments.keys() == case.arguments.keys()


@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_a_class_that_would_end_the_process_stays_behind(shape: tuple[int, ...]) -> None:
    for greatest, goes in ((3, True), (4, False)):
        target = torch.full(shape[:-1], greatest)
        case = Case([torch.randn(shape)], {"target": target})
        assert (moved(case, META) is not None) == goes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arguments", [(0.3, True), (0.3, False), (1.0, True), (0.0, True)])
def test_the_formula_of_dropout_has_the_mask_of_ours(
    dtype: torch.dtype, arguments: tuple[float, bool]
) -> None:
    p, training = arguments
    twin, ours = twin_on(CUDA, "dropout", "direct"), called("dropout", "direct")
    options = {"p": p, "training": training}
    tensors = [torch.randn(3, 5).to(dtype)]
    one, other = (values_and_gradients(each, tensors, options) for each in (twin, ours))
    assert largest_error(one[0] + one[1], other[0] + other[1]) <= 2 * torch.finfo(dtype).eps
    with pytest.raises(ValueError, match="between 0 and 1"):
        twin(*tensors, p=1.5, training=True)


def test_a_gpu_is_judged_in_full_float32_and_in_one_order_of_sums() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with judged_on(CUDA):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_float32_matmul_precision("highest")


def _meta_call(op: str, algorithm: str, case: Case) -> None:
    tensors = [t.requires_grad_(t.is_floating_point()) for t in case.tensors]
    output = called(op, algorithm)(*tensors, **case.arguments)
    output = output[0] if isinstance(output, tuple) else output
    inputs = [t for t in tensors if t.requires_grad]
    grads = torch.autograd.grad(output, inputs, torch.empty_like(output))
    assert {each.device for each in (output, *grads)} == {META}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("op", CASES)
def test_no_op_mixes_devices(op: str) -> None:
    """On a device that is not the CPU, all that an op makes for itself is on that device as well."""
    draw = random.Random(op)
    tried = 0
    while tried < 8:
        case = CASES[op](draw)
        try:
            called(op, None)(*case.tensors, **case.arguments)
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue
        tried += 1
        for algorithm in ops.algorithm_names(op):
            there = moved(case, META)
            assert there is not None
            if (op, algorithm) in DIVIDE_BY_NONE and not there.tensors[0].numel():
                continue
            _meta_call(op, algorithm, there)
