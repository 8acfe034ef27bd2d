"""Lists of a max-pool's winners, in float32 and bfloat16 written by vectors where the processor has AVX-512.

Of each pooled element one winner has the gradient, or none where the ReLU stopped it. The gradient of the
weights needs, for each channel, where in the batch it won; that of the image, for each element of a window,
which channels won there. A list is an array of entries, which number places or channels, and one of gradients
beside it, in the order of positions and channels, whichever way it is written.

By vectors: codes and gradients of 16 channels are transposed in registers, as many positions as these have
lanes, and what is alive is pressed together by one instruction. Gradients are of float32 or, as bit patterns,
of bfloat16.
"""
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.llvm import LLVM_PRESSES
from cnnexp.kernels.cpu.memory import Memory, shuffled, zipped
from cnnexp.kernels.cpu.numba_internals import declared, void
from cnnexp.kernels.cpu.pointers import ahead
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES, add_vectors, splat

__all__ = [
    "SHARES",
    "SLACK",
    "add_list",
    "list_by_channel",
    "list_by_offset",
    "list_window",
    "sum_shares",
    "table_of",
]

SLACK = 32  # elements after the last one of a list that may be written
SHARES = 16  # sums that together are that of a list: lanes of the widest vectors
_CHANNELS = 16  # listed at once
_MANY = 12  # elements of a window, from which on lists are quicker written one by one
_INDEX, _BYTE = ir.IntType(64), ir.IntType(8)


def _at_once(grads: Any) -> int:
    """How many of the positions are listed at once, by vectors; 0 where each is listed by itself."""
    if grads.dtype == types.uint16:
        return 32
    return 16 if LLVM_PRESSES and VECTOR_BYTES == 64 and grads.dtype == types.float32 else 0


def list_by_channel(
    codes: Any,
    grads: Any,
    channels: int,
    rows: int,
    window: int,
    entries: Any,
    weights: Any,
    apart: int,
    counts: Any,
    listed: int,
) -> None:
    """Write the lists of ``listed`` channels: where each won; for kernels only.

    Args: codes and grads: of ``rows`` positions of ``channels`` each, from the first that is listed on;
    window: elements of a window, the entry of element k at position r being r·window + k; entries, weights:
    room for lists ``apart`` from each other, ``SLACK`` elements longer than ``rows``; counts: becomes their
    lengths. All are pointers.
    """
    raise NotImplementedError("only numba's compiled code calls it")


def list_by_offset(
    codes: Any,
    grads: Any,
    channels: int,
    first: int,
    step: int,
    k: int,
    entries: Any,
    weights: Any,
    end: int,
) -> int:
    """Append to a list which channels of one position won at element ``k`` of its window; for kernels only.

    Args: codes and grads: of ``channels``, whose entries are ``first``, ``first`` + ``step`` and so on;
    entries, weights: with room for ``SLACK`` more elements; end: where the list ends so far.

    Returns: where the list ends then.
    """
    raise NotImplementedError("only numba's compiled code calls it")


@njit(**COMPILE)
def _list_one_by_one(codes, grads, channels, rows, window, entries, weights, apart, counts, listed):
    for o in range(listed):
        counts[o] = 0
    for row in range(rows):
        at = row * channels
        for o in range(listed):
            k, end = codes[at + o], o * apart + counts[o]
            # written always, counted if alive: no branch to mispredict
            entries[end] = row * window + k
            weights[end] = grads[at + o]
            counts[o] += k != DEAD


def list_window(
    codes: Any,
    grads: Any,
    channels: int,
    first: int,
    step: int,
    window: int,
    entries: Any,
    weights: Any,
    starts: Any,
) -> None:
    """Write the lists of all elements of a window, one after the other; for kernels only.

    Args: as of ``list_by_offset``; starts: where the first begins; becomes where each begins, and after them
    where the last ends. One more number after that may be written.
    """
    raise NotImplementedError("only numba's compiled code calls it")


@njit(**COMPILE)
def _list_window_one_by_one(codes, grads, channels, first, step, window, entries, weights, starts):
    for k in range(window):
        starts[k + 1] = 0
    for o in range(channels):
        k = codes[o]
        starts[window + 1 if k == DEAD else k + 1] += 1  # the last one: of nothing
    for k in range(window):
        starts[k + 1] += starts[k]
    begin = starts[0]
    for o in range(channels):
        k = codes[o]
        slot = window if k == DEAD else k
        # each list's beginning moves to its end; what is dead is written after all lists, and again
        entries[starts[slot]] = first + o * step
        weights[starts[slot]] = grads[o]
        starts[slot] += k != DEAD
    for k in range(window, 0, -1):
        starts[k] = starts[k - 1]
    starts[0] = begin


@overload(list_window)
def _list_window(codes, grads, channels, first, step, window, entries, weights, starts):
    by_vectors = _at_once(grads) > 0

    def one_by_one(codes, grads, channels, first, step, window, entries, weights, starts):
        of = codes, grads, channels, first, step, window
        _list_window_one_by_one(*of, entries, weights, starts)

    def offset_by_offset(codes, grads, channels, first, step, window, entries, weights, starts):
        of = codes, grads, channels, first, step
        if window > _MANY:
            _list_window_one_by_one(*of, window, entries, weights, starts)
            return
        for k in range(window):
            starts[k + 1] = list_by_offset(*of, k, entries, weights, starts[k])

    return offset_by_offset if by_vectors else one_by_one


@overload(list_by_channel)
def _list_by_channel(codes, grads, channels, rows, window, entries, weights, apart, counts, listed):
    at_once = _at_once(grads)

    def one_by_one(codes, grads, channels, rows, window, entries, weights, apart, counts, listed):
        of = codes, grads, channels, rows, window
        _list_one_by_one(*of, entries, weights, apart, counts, listed)

    def by_vectors(codes, grads, channels, rows, window, entries, weights, apart, counts, listed):
        if listed % _CHANNELS:
            of = codes, grads, channels, rows, window
            _list_one_by_one(*of, entries, weights, apart, counts, listed)
            return
        for o in range(listed):
            counts[o] = 0
        for first in range(0, rows, at_once):
            valid, base = min(at_once, rows - first), first * window
            for o in range(0, listed, _CHANNELS):
                _append_by_channel(
                    *(codes, grads, first * channels + o, channels, valid, window, base),
                    *(entries, weights, o * apart, apart, ahead(counts, o)),
                )

    return by_vectors if at_once else one_by_one


@overload(list_by_offset)
def _list_by_offset(codes, grads, channels, first, step, k, entries, weights, end):
    def one_by_one(codes, grads, channels, first, step, k, entries, weights, end):
        for o in range(channels):
            entries[end] = first + o * step
            weights[end] = grads[o]
            end += codes[o] == k
        return end

    def by_vectors(codes, grads, channels, first, step, k, entries, weights, end):
        whole = channels // _CHANNELS * _CHANNELS
        for o in range(0, whole, _CHANNELS):
            of = codes, grads, o, first + o * step, step
            end = _append_by_offset(*of, k, entries, weights, end)
        for o in range(whole, channels):
            entries[end] = first + o * step
            weights[end] = grads[o]
            end += codes[o] == k
        return end

    return by_vectors if _at_once(grads) else one_by_one


@njit(**COMPILE)
def table_of(places, size, together):
    """Where entry n·P·Q·K + l·K + k begins: image n, position l, offset k; the last: the image after all."""
    starts = places.reshape(-1)
    table = np.empty(together * starts.size + 1, np.int64)
    for n in range(together):
        part = table[n * starts.size : (n + 1) * starts.size]
        for i in range(part.size):
            part[i] = n * size + starts[i]
    table[-1] = together * size
    return table


@njit(**COMPILE)
def add_list(weights, count, shares):
    """Add the ``count`` gradients of a list to its ``SHARES`` sums; both are pointers."""
    rounds = (count + SHARES - 1) // SHARES
    for i in range(count, rounds * SHARES):
        weights[i] = 0
    add_vectors(shares, weights, rounds)


@njit(**COMPILE)
def sum_shares(shares, o):
    """The sum of what all tasks have of the list ``o`` in ``shares`` (tasks, lists, ``SHARES``)."""
    total = np.zeros(1, shares.dtype)[0]
    for task in range(shares.shape[0]):
        for i in range(SHARES):
            total += shares[task, o, i]
    return total


def _kept(builder: ir.IRBuilder, values: Any, mask: Any) -> Any:
    """The lanes of ``values`` where ``mask`` is set, one after the other from lane 0 on."""
    kind = values.type
    name = f"llvm.experimental.vector.compress.v{kind.count}i{kind.element.width}"
    function = declared(builder, name, ir.FunctionType(kind, [kind, mask.type, kind]))
    return builder.call(function, [values, mask, ir.Constant(kind, ir.Undefined)])


def _number_set(builder: ir.IRBuilder, mask: Any) -> Any:
    bits = builder.bitcast(mask, ir.IntType(mask.type.count))
    return builder.zext(builder.ctpop(bits), _INDEX)


def _everywhere(builder: ir.IRBuilder, index: Any, kind: ir.VectorType) -> Any:
    return splat(builder, builder.trunc(index, kind.element), kind)


def _append(memory: Memory, entries: int, entry: Any, share: Any, mask: Any, end: Any) -> Any:
    """Write what ``mask`` keeps of ``entry`` and ``share`` from ``end`` on; where that ends."""
    builder, size = memory.builder, entry.type.element.width // 8
    memory.store(_kept(builder, entry, mask), entries, end, size)
    memory.store(_kept(builder, share, mask), entries + 1, end, size)
    return builder.add(end, _number_set(builder, mask))


def _turned(
    memory: Memory, at: Any, step: Any, valid: Any, number: ir.IntType, rows: int
) -> tuple[list[Any], list[Any]]:
    """Codes and gradients of 16 channels and ``rows`` positions, as 16 vectors along the positions.

    Those of position r begin at ``at`` + r·``step``; after ``valid`` positions the last is read again.
    """
    builder, kind = memory.builder, ir.VectorType(number, _CHANNELS)
    last = builder.sub(valid, ir.Constant(_INDEX, 1))
    codes, shares = [], []
    for r in range(rows):
        row = ir.Constant(_INDEX, r)
        row = builder.select(builder.icmp_signed("<", row, last), row, last)
        start = builder.add(at, builder.mul(row, step))
        code = memory.load(0, start, ir.VectorType(_BYTE, _CHANNELS), 1)
        codes.append(builder.zext(code, kind))
        shares.append(memory.load(1, start, kind, number.width // 8))
    return _transposed(builder, codes), _transposed(builder, shares)


def _transposed(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Vectors of 16 numbers, a power of two → 16 vectors of a number of each."""
    count, lanes = len(rows), rows[0].type.count
    if count > lanes:  # so many that two fill a register
        both = list(range(2 * lanes))
        pairs = zip(rows[::2], rows[1::2], strict=True)
        rows = [shuffled(builder, one, other, both) for one, other in pairs]
    half = count // 2
    for _ in range(half.bit_length()):  # each brings the first bit of a number's place to the end
        rows = [
            zipped(builder, one, other, list(range(begin, begin + half)))
            for one, other in zip(rows[:8], rows[8:], strict=True)
            for begin in (0, half)
        ]
    return rows


@intrinsic
def _append_by_channel(
    typing_context, codes, grads, at, step, valid, window, base, entries, weights, to, apart, counts
):
    """Append to the lists of 16 channels what of as many positions as a register has lanes is alive.

    Codes and gradients of position r, 16 channels, begin at ``at`` + r·``step``; r < ``valid``. Winner k of
    position r in channel o becomes entry ``base`` + r·``window`` + k, and its gradient, of the list that
    begins at ``to`` + o·``apart`` and has counts[o] elements; a register of them is written, alive or not.
    """
    n = types.intp
    signature = types.void(codes, grads, n, n, n, n, n, entries, weights, n, n, counts)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature.args, arguments)
        _, _, at, step, valid, window, base, _, _, to, apart, _ = arguments
        number = ir.IntType(grads.dtype.bitwidth)
        lanes = 512 // number.width
        kind = ir.VectorType(number, lanes)
        wins, shares = _turned(memory, at, step, valid, number, lanes)
        position = ir.Constant(kind, list(range(lanes)))
        inside = builder.icmp_unsigned("<", position, _everywhere(builder, valid, kind))
        entry = builder.mul(position, _everywhere(builder, window, kind))
        entry = builder.add(entry, _everywhere(builder, base, kind))
        for o, (code, share) in enumerate(zip(wins, shares, strict=True)):
            alive = builder.icmp_unsigned("!=", code, ir.Constant(kind, [DEAD] * lanes))
            mask = builder.and_(alive, inside)
            place = memory.element(11, ir.Constant(_INDEX, o))
            start = memory.ahead(to, apart, o)
            end = builder.add(start, builder.load(place))
            end = _append(memory, 7, builder.add(entry, code), share, mask, end)
            builder.store(builder.sub(end, start), place)
        return void(context)

    return signature, codegen


@intrinsic
def _append_by_offset(typing_context, codes, grads, at, first, step, offset, entries, weights, end):
    """Append to the list that ends at ``end`` which of 16 channels of one position won at ``offset``.

    Codes and gradients begin at ``at``, entries are ``first``, ``first`` + ``step`` and so on; 16 are
    written, winners or not. Returns where the list ends then.
    """
    n = types.intp
    signature = n(codes, grads, n, n, n, n, entries, weights, n)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature.args, arguments)
        _, _, at, first, step, offset, _, _, end = arguments
        number = ir.IntType(grads.dtype.bitwidth)
        bytes_kind, kind = (ir.VectorType(each, _CHANNELS) for each in (_BYTE, number))
        code, share = memory.load(0, at, bytes_kind, 1), memory.load(1, at, kind, number.width // 8)
        steps = ir.Constant(kind, list(range(_CHANNELS)))
        entry = builder.mul(steps, _everywhere(builder, step, kind))
        entry = builder.add(entry, _everywhere(builder, first, kind))
        mask = builder.icmp_unsigned("==", code, _everywhere(builder, offset, bytes_kind))
        return _append(memory, 6, entry, share, mask, end)

    return signature, codegen
