"""Which faults each output and gradient is compared with, most usual first, and how they are computed."""

from __future__ import annotations

import numpy as np

from cnnexp.grading.cases import Array, Case
from cnnexp.grading.contract import CONTRACTS
from cnnexp.grading.faults import conv, others, pool
from cnnexp.grading.faults.conv import Faults

# Faults that any gradient may have: what is done to g before, or to the result after
_ANY = (
    *("negated", "mean_batch", "mean_all", "mean_positions", "mean_rows", "mean_columns"),
    *(
        "times_batch",
        "times_all",
        "doubled",
        "halved",
        "grad_output_ignored",
        "grad_output_squared",
    ),
    *("zero", "plane_transposed", "result_flipped", "only_first_image", "only_last_image"),
    *("images_reversed", "images_averaged", "images_into_first", "gradient_of_first_image"),
)

_READ = ("kernel_flipped", "kernel_transposed", "kernel_rows_flipped", "kernel_columns_flipped")
_SUMS = ("batch_last", "batch_first", "position_last", "position_first", "row_last", "column_last")
_SHORT = ("last_row_skipped", "last_column_skipped")
_AXIS = ("stride_forgotten_rows", "stride_forgotten_columns")
_CONV = {
    "y": (
        *(
            *_READ,
            "bias_missing",
            "padding_one_side",
            "channel_last",
            "channel_first",
            "image_first",
        ),
        *(
            "stride_forgotten",
            "dilation_forgotten",
            "channels_swapped",
            "last_window_skipped",
            *_SHORT,
        ),
    ),
    "x": (
        *_READ,
        *("stride_forgotten", "stride_forgotten crop_of_short", "dilation_forgotten", *_AXIS),
        *("stride_for_dilation", "crop_end", "crop_start", "crop_missing"),
        *("overwritten_windows", "overwritten_all", "overwritten_offsets", "overwritten_reversed"),
        *("out_channel_last", "out_channel_first", "channels_swapped", "channels_mixed"),
        *("channels_reshaped",),
        *("last_window_skipped", *_SHORT),
    ),
    "w": (
        *_READ,
        *(
            "stride_forgotten",
            "dilation_forgotten",
            "stride_for_dilation",
            "padding_one_side",
            *_AXIS,
        ),
        "gradient_flipped",
        *(*_SUMS, "batch_last position_last", "batch_last row_last", "kept_batch", "image_first"),
        *(
            "channels_swapped",
            "channels_reshaped",
            "columns_reshaped",
            "last_window_skipped",
            *_SHORT,
        ),
    ),
    "b": (
        *(
            *_SUMS,
            "batch_last position_last",
            "batch_last row_last",
            "kept_batch",
            "kept_positions",
        ),
        *("kept_columns", "kept_rows", "axes_rows", "axes_columns", "axes_batch", "axes_all"),
        *("axes_all_spread", "last_window_skipped", *_SHORT),
    ),
}
_ARGMAX = (
    *("argmax_first_image", "argmax_last_image", "argmax_next_image", "argmax_previous_image"),
    *("argmax_all_images", "argmax_first_channel", "argmax_last_channel"),
)
_MAX = {
    "y": ("zero_padding", "minimum", "stride_forgotten", "last_window_skipped", *_SHORT),
    "x": (
        *(
            "overwritten_winners",
            "overwritten_windows",
            "overwritten_reversed",
            "ties_all",
            *_ARGMAX,
        ),
        *(
            "stride_forgotten",
            "crop_end",
            "crop_start",
            "crop_missing",
            "winner_transposed",
            *_AXIS,
        ),
        *(
            "average_for_max",
            "everywhere",
            "first_element",
            "minimum",
            "zero_padding",
            "value_times",
        ),
        *("last_window_skipped", *_SHORT),
    ),
}
_AVG = {
    "y": (
        "sum_for_mean",
        "padding_not_counted",
        "stride_forgotten",
        "last_window_skipped",
        *_SHORT,
    ),
    "x": (
        *("overwritten_windows", "overwritten_reversed", "divisor_missing", "padding_not_counted"),
        *(
            "stride_forgotten",
            "crop_end",
            "crop_start",
            "crop_missing",
            "first_element",
            "divisor_k",
        ),
        *_AXIS,
        *("divisor_stride", "divisor_image", "divisor_output", "last_window_skipped", *_SHORT),
    ),
}
_MASKS = (
    *(
        "mask_missing",
        "mask_of_gradient",
        "mask_guided",
        "mask_reversed",
        "mask_value",
        "mask_input",
    ),
    *("mask_value_only", "mask_sign", "mask_leaky", "mask_at_one"),
)
_CHANNEL = (
    *("axes_rows", "axes_columns", "kept_columns", "kept_rows"),
    *("batch_last", "kept_batch", "kept_positions", "axes_all", "axes_all_spread", "axes_channels"),
)
_PATHS = (
    *("both_paths_missing", "mean_path_missing", "variance_path_missing", "variance_path_doubled"),
    *("variance_path_halved", "variance_path_sign", "mean_path_sign", "paths_not_averaged"),
    *(
        "mean_path_not_averaged",
        "variance_path_not_averaged",
        "m_is_batch",
        "unbiased",
        "unbiased_throughout",
        "scale_squared",
    ),
    *("scale_missing", "scale_inverted", "gamma_missing", "eps_missing", "eps_outside"),
    *("mean_path_averaged_twice", "variance_path_averaged_twice", "variance_path_scale"),
    "statistics_of_batch",
)
FAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "conv2d": _CONV,
    "max_pool2d": _MAX,
    "avg_pool2d": _AVG,
    "relu": {"y": ("mask_leaky", "mask_sign"), "x": _MASKS},
    "linear": {
        "y": ("weight_transposed", "bias_missing"),
        "x": ("weight_transposed", "out_channel_last", "out_channel_first"),
        "w": (
            "gradient_transposed",
            "gradient_reshaped",
            "batch_last",
            "batch_first",
            "kept_batch",
        ),
        "b": (
            *("axes_features", "batch_last", "batch_first", "kept_batch", "axes_all"),
            "axes_all_spread",
        ),
    },
    "batch_norm": {
        "y": (
            *("unbiased", "eps_missing", "eps_outside", "gamma_missing", "beta_missing"),
            "statistics_of_batch",
        ),
        "x": _PATHS,
        "gamma": (
            *("x_for_hat", "centred_for_hat", "y_for_hat", "gamma_in", "dbeta_for_dgamma"),
            *("unbiased", "eps_missing", "eps_outside", *_CHANNEL),
        ),
        "beta": ("dgamma_for_dbeta", *_CHANNEL),
    },
    "cross_entropy": {
        "y": ("sum_for_mean", "negated", "softmax_axis", "class_shifted", "softmax_missing"),
        "logits": (
            *(
                "sum_for_mean",
                "divisor_classes",
                "divisor_all",
                "rank_one_missing",
                "diagonal_only",
            ),
            *(
                "rank_one_sign",
                "one_hot_added",
                "one_hot_missing",
                "stops_at_softmax",
                "softmax_twice",
                "softmax_twice_full",
            ),
            *("softmax_own_derivative", "true_class_only", "others_only", "softmax_missing"),
            *(
                "not_normalised",
                "log_for_softmax",
                "softmax_axis",
                "class_shifted",
                "squared_error",
            ),
        ),
    },
    "conv_relu_pool": {
        part: (
            *(f"relu:{mask}" for mask in (_MASKS if part != "y" else ("mask_missing",))),
            *(
                f"pool:{fault}"
                for fault in _MAX["x" if part != "y" else "y"]
                if fault not in ("crop_end", "crop_start", "crop_missing", "zero_padding")
            ),
            *(
                " ".join(f"conv:{fault}" for fault in key.split())
                for key in _CONV[part]
                if "dilation" not in key
            ),
        )
        for part in ("y", "x", "w", "b")
    },
}
# Faults that show only where there are ties or zeros
AT_KINKS = frozenset({"ties_all", "pool:ties_all"})


def faults_of(op: str, part: str) -> list[Faults]:
    """The faults that the output ("y") or a gradient may have, each a set of what it is made of."""
    known = [frozenset(key.split()) for key in FAULTS[op][part]]
    return known if part == "y" else known + [frozenset({key}) for key in _ANY]


def compute(case: Case, part: str, faults: Faults) -> Array | None:
    """The output or gradient ``part`` of a case, wrong by ``faults`` and nothing else.

    Returns:
        The array; None if a program with this fault could not have computed one from these shapes.
    """
    g, f = _before(case.grad_output, faults), faults
    op = case.op
    if op == "conv2d":
        own = {"x": conv.grad_input, "w": conv.grad_weight, "b": conv.grad_bias}
        made = conv.forward(case, f) if part == "y" else own[part](case, f, g)
    elif op == "max_pool2d":
        s = case.settings
        geometry = (s["kernel_size"], s["stride"], s["padding"])
        x = case.tensors["x"]
        made = pool.max_forward(case, f) if part == "y" else pool.max_grad(x, g, geometry, f)
    elif op == "avg_pool2d":
        made = pool.avg_forward(case, f) if part == "y" else pool.avg_grad(case, f, g)
    elif op == "conv_relu_pool":
        made = others.block(case, f, part, g)
    else:
        made = _OTHERS[op](case, f, part, g)
    return None if made is None else _after(case, part, made, f)


_OTHERS = {
    "relu": others.relu,
    "linear": others.linear,
    "batch_norm": others.batch_norm,
    "cross_entropy": others.cross_entropy,
}


def _before(g: Array, f: Faults) -> Array:
    if "grad_output_ignored" in f:
        return np.ones_like(g)
    if "grad_output_squared" in f:
        return g * g
    if "gradient_of_first_image" in f and g.ndim:
        return np.broadcast_to(g[:1], g.shape)
    return g


def _after(case: Case, part: str, made: Array, f: Faults) -> Array | None:
    n, everything = next(iter(case.tensors.values())).shape[0], _terms(case)
    factors = {
        "negated": -1.0,
        "mean_batch": 1 / n,
        "mean_all": 1 / everything,
        "mean_positions": n / everything,
        "mean_rows": 1 / (case.grad_output.shape[2] if case.grad_output.ndim == 4 else 1),
        "mean_columns": 1 / (case.grad_output.shape[3] if case.grad_output.ndim == 4 else 1),
        "times_batch": n,
        "times_all": everything,
        "doubled": 2.0,
        "halved": 0.5,
        "zero": 0.0,
    }
    for fault, factor in factors.items():
        if fault in f and (part != "y" or fault != "negated"):
            made = made * factor
    if "plane_transposed" in f:
        if made.ndim < 2:
            return None
        made = made.swapaxes(-1, -2)
    if "result_flipped" in f and made.ndim == 4:
        made = made[..., ::-1, ::-1]
    return _by_image(case, part, made, f)


def _terms(case: Case) -> float:
    """How many terms the sum of a bias's gradient has."""
    g = case.grad_output
    if case.op == "conv_relu_pool":
        geometry = conv.Geometry(case, frozenset())
        return g.shape[0] * geometry.ph * geometry.pw
    if g.ndim == 0:  # a loss, whose gradient has no sum over anything
        return next(iter(case.tensors.values())).shape[0]
    return g.size / (g.shape[1] if g.ndim > 1 else 1)


_IMAGES = frozenset({"only_first_image", "only_last_image", "images_reversed", "images_averaged"})
_IMAGES |= {"images_into_first"}


def _by_image(case: Case, part: str, made: Array, f: Faults) -> Array | None:
    if not f & _IMAGES:
        return made
    if part != CONTRACTS[case.op].tensors[0]:
        return None
    made = np.array(made)
    if "images_into_first" in f:
        made[0], made[1:] = made.sum(0), 0
    if "only_first_image" in f:
        made[1:] = 0
    if "only_last_image" in f:
        made[:-1] = 0
    if "images_reversed" in f:
        made = made[::-1]
    return np.broadcast_to(made.mean(0), made.shape) if "images_averaged" in f else made
