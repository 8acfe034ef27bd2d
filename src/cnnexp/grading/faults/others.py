"""ReLU, linear layer, batch normalisation, cross-entropy and the block with mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cnnexp.grading.cases import Array, Case
from cnnexp.grading.faults import conv, pool
from cnnexp.grading.faults.conv import Faults


def relu_mask(z: Array, g: Array, f: Faults) -> Array:
    """G after the ReLU's backward at input ``z``, with the faults."""
    y = np.maximum(z, 0)
    ways = {
        "mask_missing": g,
        "mask_reversed": g * (z < 0),
        "mask_of_gradient": g * (g > 0),
        "mask_guided": g * (g > 0) * (z > 0),
        "mask_value": g * y,
        "mask_value_only": y,
        "mask_input": g * z,
        "mask_sign": g * np.sign(z),
        "mask_leaky": g * np.where(z > 0, 1, 0.01),
        "mask_at_one": g * (z > 1),
    }
    return next((value for fault, value in ways.items() if fault in f), g * (z > 0))


def relu(case: Case, f: Faults, part: str, g: Array) -> Array | None:
    """Output or ∂L/∂x of the ReLU with the faults."""
    x = case.tensors["x"]
    if part == "x":
        return relu_mask(x, g, f)
    if "mask_leaky" in f:
        return np.where(x > 0, x, 0.01 * x)
    return np.abs(x) if "mask_sign" in f else np.maximum(x, 0)


def linear(case: Case, f: Faults, part: str, g: Array) -> Array | None:
    """Output or a gradient of the linear layer with the faults."""
    x, w, b = (case.tensors[name] for name in ("x", "w", "b"))
    square = w.shape[0] == w.shape[1]
    if part in ("y", "x") and "weight_transposed" in f and not square:
        return None
    turned = w.T if "weight_transposed" in f else w
    if part == "y":
        return x @ turned.T + (0 if "bias_missing" in f else b)
    if part == "x":
        one = {"out_channel_last": slice(-1, None), "out_channel_first": slice(0, 1)}
        kept = next((chosen for fault, chosen in one.items() if fault in f), slice(None))
        return g[:, kept] @ turned[kept]
    return _linear_weight(x, w, g, f) if part == "w" else _linear_bias(b, g, f)


def _rows_of_sum(g: Array, f: Faults) -> Array:
    """G without the rows that a sum over the batch leaves out."""
    kept = g.copy()
    if "batch_last" in f:
        kept[:-1] = 0
    if "batch_first" in f:
        kept[1:] = 0
    return kept


def _linear_weight(x: Array, w: Array, g: Array, f: Faults) -> Array:
    if "kept_batch" in f:
        return np.einsum("no,nk->nok", g, x)
    dw = _rows_of_sum(g, f).T @ x
    if "gradient_transposed" in f:
        return dw.T
    return dw.T.reshape(w.shape) if "gradient_reshaped" in f else dw


def _linear_bias(b: Array, g: Array, f: Faults) -> Array:
    ways = {
        "axes_features": g.sum(1),
        "axes_all_spread": np.full(b.shape, g.sum()),
        "axes_all": np.asarray(g.sum()),
        "kept_batch": g,
    }
    return next((value for fault, value in ways.items() if fault in f), _rows_of_sum(g, f).sum(0))


def batch_norm(case: Case, f: Faults, part: str, g: Array) -> Array | None:
    """Output or a gradient of batch normalisation in training with the faults."""
    x, gamma, beta = (case.tensors[name] for name in ("x", "gamma", "beta"))
    eps = 0.0 if "eps_missing" in f else case.settings["eps"]
    axes: tuple[int, ...] = (0,) if "statistics_of_batch" in f else (0, *range(2, x.ndim))
    shape = (1, -1, *[1] * (x.ndim - 2))
    m = x.shape[0] if "statistics_of_batch" in f else x.size // x.shape[1]
    mean = x.mean(axes, keepdims=True)
    variance = ((x - mean) ** 2).sum(axes, keepdims=True) / (
        m - 1 if f & {"unbiased", "unbiased_throughout"} else m
    )
    r = 1 / np.sqrt(variance + eps)
    if "eps_outside" in f:
        r = 1 / (np.sqrt(variance) + eps)
    hat = (x - mean) * r
    gam = gamma.reshape(shape)
    if part == "y":
        y = hat if "gamma_missing" in f else gam * hat
        return y if "beta_missing" in f else y + beta.reshape(shape)
    if part == "beta":
        return _channel_sum(g if "dgamma_for_dbeta" not in f else g * hat, axes, f)
    if part == "gamma":
        ways = {
            "x_for_hat": x,
            "centred_for_hat": x - mean,
            "y_for_hat": gam * hat + beta.reshape(shape),
            "gamma_in": gam * hat,
            "dbeta_for_dgamma": np.ones_like(x),
        }
        factor = next((value for fault, value in ways.items() if fault in f), hat)
        return _channel_sum(g * factor, axes, f)
    return _norm_input(g, hat, r, gam, _NormSums(axes, m, x.shape[0]), f)


class _NormSums:
    """Along which axes the sums of a channel run, over how many elements, in how many images."""

    def __init__(self, axes: tuple[int, ...], m: int, n: int) -> None:
        self.axes, self.m, self.n = axes, m, n


def _norm_input(g: Array, hat: Array, r: Array, gam: Array, sums: _NormSums, f: Faults) -> Array:
    axes, m = sums.axes, sums.n if "m_is_batch" in f else sums.m
    shift = g.sum(axes, keepdims=True) / m
    stretch = (g * hat).sum(axes, keepdims=True) / m
    if "unbiased_throughout" in f:
        stretch = stretch * m / (m - 1)
    if "variance_path_scale" in f:  # the derivative of r is that of another power
        stretch = stretch / r
    shift = shift * _factor_of("mean_path", m, f)
    stretch = stretch * _factor_of("variance_path", m, f)
    scales = {"scale_squared": r * r, "scale_missing": np.ones_like(r), "scale_inverted": 1 / r}
    outer = next((value for fault, value in scales.items() if fault in f), r)
    return outer * (1.0 if "gamma_missing" in f else gam) * (g - shift - hat * stretch)


def _factor_of(path: str, m: int, f: Faults) -> float:
    """By what the faults multiply one of the two paths of batch normalisation."""
    factor = 1.0
    if f & {f"{path}_missing", "both_paths_missing"}:
        factor = 0.0
    if f & {f"{path}_not_averaged", "paths_not_averaged"}:
        factor *= m
    ways = {"doubled": 2.0, "halved": 0.5, "sign": -1.0, "averaged_twice": 1 / m}
    for way, by in ways.items():
        if f"{path}_{way}" in f:
            factor *= by
    return factor


def _channel_sum(terms: Array, axes: tuple[int, ...], f: Faults) -> Array:
    if "batch_last" in f:
        return terms[-1:].sum(axes)
    if "kept_batch" in f:
        return terms.sum(axes[1:])
    if "kept_positions" in f:
        return terms.sum(0)
    if "axes_channels" in f:
        return terms.sum(1)
    ways = {
        "axes_rows": (0, 1, 2),
        "axes_columns": (0, 1, 3),
        "kept_columns": (0, 2),
        "kept_rows": (0, 3),
    }
    for fault, summed in ways.items():
        if fault in f:
            return terms.sum(summed)
    if "axes_all_spread" in f:
        return np.full(terms.shape[1], terms.sum())
    return np.asarray(terms.sum() if "axes_all" in f else terms.sum(axes))


def cross_entropy(case: Case, f: Faults, part: str, g: Array) -> Array | None:
    """Output or ∂L/∂z of softmax cross-entropy with the faults."""
    z, t = case.tensors["logits"], case.tensors["target"]
    n, c = z.shape
    axis = 0 if "softmax_axis" in f else 1
    e = np.exp(z - z.max(axis, keepdims=True))
    s = e / e.sum(axis, keepdims=True)
    rows = np.arange(n)
    hot = np.zeros_like(z)
    hot[rows, (t + 1) % c if "class_shifted" in f else t] = 1
    if part == "y":
        losses = -((z if "softmax_missing" in f else np.log(s)) * hot).sum(1)
        if "negated" in f:
            losses = -losses
        return np.asarray(losses.sum() if "sum_for_mean" in f else losses.mean())
    over = {"sum_for_mean": 1, "divisor_classes": c, "divisor_all": n * c}
    divisor = next((value for fault, value in over.items() if fault in f), n)
    picked = np.maximum((s * hot).sum(1, keepdims=True), 1e-30)
    ways = {
        "rank_one_missing": -hot,
        "diagonal_only": -hot * (1 - s),
        "rank_one_sign": -hot - s,
        "one_hot_added": s + hot,
        "one_hot_missing": s,
        "stops_at_softmax": -hot / picked,
        "softmax_twice": s * (s - hot),
        "softmax_twice_full": s * ((s - hot) - (s * (s - hot)).sum(1, keepdims=True)),
        "softmax_own_derivative": s * (1 - s),
        "true_class_only": (s - hot) * hot,
        "softmax_missing": z - hot,
        "not_normalised": np.exp(z) - hot,
        "log_for_softmax": np.log(np.maximum(s, 1e-30)) - hot,
        "others_only": s * (1 - hot),
        "squared_error": 2 * (s - hot),
    }
    value = next((made for fault, made in ways.items() if fault in f), s - hot)
    return g * value / divisor


# the faults of a block are those of its three parts with the part's name before them
def block(case: Case, f: Faults, part: str, g: Array) -> Array | None:
    """Output or a gradient of convolution, ReLU and max-pooling with the faults."""
    by: dict[str, Faults] = {
        name: frozenset(x.partition(":")[2] for x in f if x.startswith(f"{name}:"))
        for name in ("conv", "relu", "pool")
    }
    right = frozenset[str]()
    z = conv.forward(case, by["conv"] if part == "y" else right)
    if z is None:
        return None
    s = case.settings
    geometry: tuple[int, int, int] = (s["pool_kernel"], s["pool_stride"], 0)
    a = np.maximum(z, 0)
    if part == "y":
        if "relu:mask_missing" in f:
            a = z
        names = ("kernel_size", "stride", "padding")
        pooled = Case("max_pool2d", {"x": a}, dict(zip(names, geometry, strict=True)))
        return pool.max_forward(pooled, by["pool"])
    taken = pool.max_grad(a, g, geometry, by["pool"])
    if taken is None or taken.shape != z.shape:
        return None
    dz = relu_mask(z, taken, by["relu"])
    inner = replace(case, grad_output=dz)
    if part == "x":
        return conv.grad_input(inner, by["conv"], dz)
    if part == "w":
        return conv.grad_weight(inner, by["conv"], dz)
    return conv.grad_bias(inner, by["conv"], dz)
