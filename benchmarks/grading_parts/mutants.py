"""Mistakes made by changing a few characters of right solutions, with the words that must name them.

The solutions (tests/grading/students/right) know nothing of how ``cnnexp.grade`` names mistakes, nor does this
list: each entry is a file, what is replaced by what, and a part of the name that is expected.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A right solution, an edit, and what it has to be called."""

    file: str
    old: str
    new: str
    name: str

    @property
    def op(self) -> str:
        return self.file.partition("__")[0]


OVERWRITTEN = "`=` for `+=`"
FLIPPED = "kernel not flipped"
STRIDE = "stride forgotten"
CROP = "padding cropped"
BATCH = "missing sum over the batch"
POSITIONS = "missing sum over positions"
MEAN, SUM = "mean for sum", "sum for mean"
SWAPPED = "channel axes swapped"
TIES = "ties given to all"
ARGMAX = "argmax of another image"
MEAN_PATH, VARIANCE_PATH = "mean path", "variance path"
RANK_ONE = "rank-one"
AXES = "bias summed over the wrong axes"
MASK = "ReLU's mask"
PADDING = "padding put on the wrong side"
CHANNELS = "missing sum over channels"
TRANSPOSED = "transposed"

# Five styles of public courses, three mistakes each
COURSES = [
    Mutant("conv2d__loops", "dxp[n, :, r : r + KH, c : c + KW] +=", "dxp[n, :, r : r + KH, c : c + KW] =", OVERWRITTEN),
    Mutant("conv2d__loops", "r, c = p * stride, q * stride", "r, c = p, q", STRIDE),
    Mutant("conv2d__loops", "dw[o] +=", "dw[o] =", POSITIONS),
    Mutant("conv2d__im2col", "np.add.at(xp, (slice(None), k, i, j), cols)", "xp[:, k, i, j] += cols", OVERWRITTEN),
    Mutant("conv2d__im2col", "np.sum(dout, axis=(0, 2, 3))", "np.sum(dout, axis=(0, 1, 2))", AXES),
    Mutant("conv2d__im2col", "xp[:, :, padding : padding + H, padding : padding + W]", "xp[:, :, :H, :W]", CROP),
    Mutant("conv2d__strides", "grad_xp[:, :, u : u + stride * P : stride, v : v + stride * Q : stride] +=", "grad_xp[:, :, u : u + stride * P : stride, v : v + stride * Q : stride] =", OVERWRITTEN),
    Mutant("conv2d__strides", "weight[:, :, u, v], axes", "weight[:, :, kh - 1 - u, kw - 1 - v], axes", FLIPPED),
    Mutant("conv2d__strides", 'grad_output.sum(axis=(0, 2, 3))', 'grad_output.mean(axis=(0, 2, 3))', MEAN),
    Mutant("conv2d__scipy", 'convolve2d(spread[n, o], w[o, c], mode="full")', 'correlate2d(spread[n, o], w[o, c], mode="full")', FLIPPED),
    Mutant("conv2d__scipy", "spread[:, :, ::stride, ::stride] = dy", "spread[:, :, : dy.shape[2], : dy.shape[3]] = dy", STRIDE),
    Mutant("conv2d__scipy", "dw[o, c] += ", "dw[o, c] = ", BATCH),
    Mutant("conv2d__einsum", "turned = w[:, :, ::-1, ::-1]", "turned = w", FLIPPED),
    Mutant("conv2d__einsum", '"nopq->o", grad_output', '"nopq->o", grad_output[:1]', BATCH),
    Mutant("conv2d__einsum", "return dxp[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]", "return dxp[:, :, 2 * padding :, 2 * padding :]", CROP),
]  # fmt: skip

MUTANTS = [
    Mutant("conv2d__loops", "dw[o] += dout[n, o, p, q] * xp[n, :, r : r + KH, c : c + KW]", "dw[o] += dout[n, o, p, q] * xp[n, :, r : r + KH, c : c + KW][:, ::-1, ::-1]", FLIPPED),
    Mutant("conv2d__loops", "* w[o]\n    H, W", "* w[o][:, ::-1, ::-1]\n    H, W", FLIPPED),
    Mutant("conv2d__loops", "db[o] += dout[n, o, p, q]", "db[o] = dout[n, o, p, q]", POSITIONS),
    Mutant("conv2d__loops", "dx = dxp[:, :, padding : padding + H, padding : padding + W]", "dx = dxp", CROP),
    Mutant("conv2d__loops", "window * w[o]", "window * w[o][:, ::-1, ::-1]", FLIPPED),
    Mutant("conv2d__loops", "(window * w[o]) + b[o]", "(window * w[o])", "bias forgotten"),
    Mutant("conv2d__loops", "return dx, dw, db", "return dx / len(x), dw / len(x), db / len(x)", MEAN),
    Mutant("conv2d__im2col", "flat @ cols.T).reshape(w.shape)", "cols @ flat.T).reshape(w.shape)", SWAPPED),
    Mutant("conv2d__im2col", "w.reshape(O, -1).T @ flat", "w.transpose(1, 0, 2, 3).reshape(O, -1).T @ flat", SWAPPED),
    Mutant("conv2d__im2col", "w.reshape(O, -1).T @ flat", "w[:, :, ::-1, ::-1].reshape(O, -1).T @ flat", FLIPPED),
    Mutant("conv2d__im2col", "db = np.sum(dout, axis=(0, 2, 3))", "db = np.sum(dout, axis=(2, 3))", BATCH),
    Mutant("conv2d__im2col", "db = np.sum(dout, axis=(0, 2, 3))", "db = np.mean(np.sum(dout, axis=(2, 3)), axis=0)", MEAN),
    Mutant("conv2d__strides", "np.tensordot(grad_output, view, axes=([0, 2, 3], [0, 2, 3]))", "np.tensordot(grad_output[-1:], view[-1:], axes=([0, 2, 3], [0, 2, 3]))", BATCH),
    Mutant("conv2d__strides", "u : u + stride * P : stride, v : v + stride * Q : stride", "u : u + P, v : v + Q", STRIDE),
    Mutant("conv2d__strides", "pad_width : pad_width + H, pad_width : pad_width + W", "2 * pad_width : 2 * pad_width + H, 2 * pad_width : 2 * pad_width + W", CROP),
    Mutant("conv2d__strides", "grad_output.sum(axis=(0, 2, 3))", "grad_output.sum(axis=0)", AXES),
    Mutant("conv2d__scipy", "dxp[n, c] += ", "dxp[n, c] = ", CHANNELS),
    Mutant("conv2d__scipy", "correlate2d(xp[n, c], spread[n, o]", "convolve2d(xp[n, c], spread[n, o]", FLIPPED),
    Mutant("conv2d__einsum", "dw = np.einsum(\"nopq,ncpquv->ocuv\", grad_output, view)", "dw = np.einsum(\"nopq,ncpquv->ocvu\", grad_output, view)", TRANSPOSED),
    Mutant("conv2d__einsum", "turned = w[:, :, ::-1, ::-1]", "turned = w[:, :, ::-1, :]", FLIPPED),
    Mutant("conv2d__einsum", "np.einsum(\"nopq->o\", grad_output)", "np.einsum(\"nopq->o\", grad_output) / (p * q)", MEAN),
    Mutant("conv2d__torch_function", "g.sum((0, 2, 3))", "g.sum((0, 1, 2))", AXES),
    Mutant("conv2d__torch_function", "torch.einsum(\"nol,nkl->ok\", flat, cols)", "torch.einsum(\"ol,kl->ok\", flat[0], cols[0])", BATCH),
    Mutant("conv2d__torch_function", "F.fold(w.flatten(1).T", "F.fold(w.flip(2, 3).flatten(1).T", FLIPPED),
    Mutant("conv2d__class", "dxp[:, :, i * s : i * s + kh, j * s : j * s + kw] +=", "dxp[:, :, i * s : i * s + kh, j * s : j * s + kw] =", OVERWRITTEN),
    Mutant("conv2d__class", "self.dW += ", "self.dW = ", POSITIONS),
    Mutant("conv2d__param_dict", "dpadded[:, :, pad:-pad, pad:-pad] if pad else dpadded", "dpadded[:, :, : x.shape[2], : x.shape[3]]", CROP),
    Mutant("conv2d__param_dict", "rs, cs = r * stride, c * stride", "rs, cs = r, c", STRIDE),
    Mutant("max_pool2d__loops", "dxp[n, c, i * stride + u, j * stride + v] +=", "dxp[n, c, i * stride + u, j * stride + v] =", OVERWRITTEN),
    Mutant("max_pool2d__loops", "i * stride + u, j * stride + v] +=", "i + u, j + v] +=", STRIDE),
    Mutant("max_pool2d__loops", "np.argmax(window)", "np.argmax(xp[0, c, i * stride : i * stride + k, j * stride : j * stride + k])", ARGMAX),
    Mutant("max_pool2d__loops", "np.argmax(window)", "np.argmin(window)", "wrong element"),
    Mutant("max_pool2d__loops", "u, v = np.unravel_index", "v, u = np.unravel_index", TRANSPOSED),
    Mutant("max_pool2d__loops", "return dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]]", "return dxp[:, :, : x.shape[2], : x.shape[3]]", CROP),
    Mutant("max_pool2d__loops", "constant_values=-np.inf)\n    N, C, H, W", "constant_values=0)\n    N, C, H, W", "padding filled with 0"),
    Mutant("max_pool2d__indices", "np.add.at(dx, (planes, where.reshape(N * C, -1)), dout.reshape(N * C, -1))", "dx[planes, where.reshape(N * C, -1)] += dout.reshape(N * C, -1)", OVERWRITTEN),
    Mutant("max_pool2d__indices", "rows = np.arange(P)[:, None] * stride", "rows = np.arange(P)[:, None]", STRIDE),
    Mutant("max_pool2d__ties_shared", "share = mask / mask.sum((2, 3), keepdims=True)", "share = mask", TIES),
    Mutant("max_pool2d__ties_shared", "j : j + kernel_size] += share", "j : j + kernel_size] = share", OVERWRITTEN),
    Mutant("max_pool2d__ties_shared", "share = mask / mask.sum((2, 3), keepdims=True)", "share = 1 / mask[0, 0].size", "wrong element"),
    Mutant("max_pool2d__ties_shared", "share * dy", "window * share * dy", "x multiplied"),
    Mutant("max_pool2d__offsets", "& ~taken", "", TIES),
    Mutant("max_pool2d__torch_function", "where.flatten(2), grad", "where[:1].expand_as(where).flatten(2), grad", ARGMAX),
    Mutant("avg_pool2d__loops", "+= dout[:, :, p, q, None, None]", "= dout[:, :, p, q, None, None]", OVERWRITTEN),
    Mutant("avg_pool2d__loops", "/ kernel_size**2", "", "divided by the wrong number"),
    Mutant("avg_pool2d__loops", "padding : padding + x.shape[2], padding : padding + x.shape[3]]", ": x.shape[2], : x.shape[3]]", CROP),
    Mutant("avg_pool2d__offsets", "dout / (k * k)", "dout / k", "divided by the wrong number"),
    Mutant("avg_pool2d__offsets", "v : v + s * Q : s] += dout", "v : v + s * Q : s] = dout", OVERWRITTEN),
    Mutant("relu__mask", "grad_output * (x > 0)", "grad_output", MASK),
    Mutant("relu__mask", "grad_output * (x > 0)", "grad_output * (grad_output > 0)", MASK),
    Mutant("relu__mask", "grad_output * (x > 0)", "grad_output * (x * (x > 0) >= 0)", MASK),
    Mutant("relu__mask", "grad_output * (x > 0)", "1.0 * (x > 0)", "grad_output ignored"),
    Mutant("linear__numpy", "grad_output.sum(0)", "grad_output.sum(1)", AXES),
    Mutant("linear__numpy", "grad_output.sum(0)", "grad_output.mean(0)", MEAN),
    Mutant("linear__numpy", "grad_output.T @ x", "x.T @ grad_output", TRANSPOSED),
    Mutant("linear__loops", "dw[o, k] += ", "dw[o, k] = ", BATCH),
    Mutant("batch_norm__graph", "- np.sum(dxmu, axis=0) / N", "", MEAN_PATH),
    Mutant("batch_norm__graph", "+ 2 * xmu * dvar / N", "", VARIANCE_PATH),
    Mutant("batch_norm__formula", "(m * grad_output - dbeta - hat * dgamma)", "(m * grad_output)", "mean and variance paths"),
    Mutant("batch_norm__formula", "- hat * dgamma", "", VARIANCE_PATH),
    Mutant("batch_norm__kratzert", "dcentred = dcentred + 2 * centred * dsq", "dcentred = dcentred + centred * dsq", VARIANCE_PATH),
    Mutant("batch_norm__torch_function", "(rows * hat).sum(1)", "(rows * hat).mean(1)", MEAN),
    Mutant("cross_entropy__stable", "grad_output * d / len(target)", "grad_output * d", SUM),
    Mutant("cross_entropy__stable", "d[np.arange(len(target)), target] -= 1\n", "pass\n", "softmax's gradient"),
    Mutant("cross_entropy__jacobian", "np.diag(s[n]) - np.outer(s[n], s[n])", "np.diag(s[n])", RANK_ONE),
    Mutant("cross_entropy__cached_probabilities", "(probs - one_hot)", "(one_hot - probs)", "sign"),
    Mutant("conv_relu_pool__chained", "dz = da * (z > 0)", "dz = da", MASK),
    Mutant("conv_relu_pool__chained", "dz = da * (z > 0)", "dz = da * (da > 0)", MASK),
    Mutant("conv_relu_pool__chained", "dxp[at] +=", "dxp[at] =", OVERWRITTEN),
    Mutant("conv_relu_pool__chained", "da[at] +=", "da[at] =", OVERWRITTEN),
    Mutant("conv_relu_pool__torch_functions", "dz.sum((0, 2, 3))", "dz.mean((0, 2, 3))", MEAN),
]  # fmt: skip
