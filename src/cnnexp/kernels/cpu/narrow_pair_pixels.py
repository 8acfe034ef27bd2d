"""Sixteen pixels of bfloat16 at a time between channels side by side and planes, as LLVM instructions.

read_…    planes[q, j] = the pair q of pixel j         channels last → planes
write_…   the other way, from sums, which are rounded
pack      planes[j] = the pair of two sums
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.depthwise_pixels import Code
from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.memory import shuffled
from cnnexp.kernels.cpu.numba_internals import counted_loop, void
from cnnexp.kernels.cpu.pairs import paired

PIXELS = LANES  # that are turned together
_WORD = ir.IntType(32)
_N = types.intp
# places, within each quarter of a register, of one register and, counted on from 4, another
_LOW, _HIGH = (0, 4, 1, 5), (2, 6, 3, 7)
_FIRST, _LAST = (0, 1, 4, 5), (2, 3, 6, 7)
_EVEN, _ODD = (0, 2, 4, 6), (1, 3, 5, 7)


def _turned(builder: ir.IRBuilder, one: Any, other: Any, places: tuple[int, ...]) -> Any:
    """``places`` of each quarter of two registers."""
    order = [4 * quarter + at % 4 + PIXELS * (at // 4) for quarter in range(4) for at in places]
    return shuffled(builder, one, other, order)


def _joined(builder: ir.IRBuilder, parts: list[Any]) -> Any:
    """One register of several smaller ones, one after the other."""
    while len(parts) > 1:
        lanes = list(range(2 * parts[0].type.count))
        parts = [
            shuffled(builder, *pair, lanes) for pair in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _pixels_of(code: Code, pixels: list[Any], many: int) -> list[Any]:
    """Registers of a plane each, from pointers to ``many`` pairs of each of sixteen pixels."""
    builder, kind = code.builder, ir.VectorType(_WORD, many)
    if many == 1:
        made: Any = ir.Constant(ir.VectorType(_WORD, PIXELS), ir.Undefined)
        for lane, pixel in enumerate(pixels):
            made = builder.insert_element(made, builder.load(pixel), ir.Constant(_WORD, lane))
        return [made]
    parts = [builder.load(builder.bitcast(p, kind.as_pointer()), align=2) for p in pixels]
    if many == 2:
        one, other = (
            _joined(builder, [parts[4 * quarter + k] for quarter in range(4) for k in some])
            for some in ((0, 1), (2, 3))
        )
        return [_turned(builder, one, other, places) for places in (_EVEN, _ODD)]
    rows = [_joined(builder, parts[k::4]) for k in range(4)]
    halves = [
        _turned(builder, rows[k], rows[k + 1], part) for part in (_LOW, _HIGH) for k in (0, 2)
    ]
    return [
        _turned(builder, halves[k], halves[k + 1], part) for k in (0, 2) for part in (_FIRST, _LAST)
    ]


def _pairs_of(code: Code, planes: list[Any], pixels: list[Any]) -> None:
    """The inverse of :func:`_pixels_of`: leave the registers of the planes at sixteen pixels."""
    builder, many = code.builder, len(planes)
    if many == 1:
        for lane, pixel in enumerate(pixels):
            builder.store(builder.extract_element(planes[0], ir.Constant(_WORD, lane)), pixel)
        return
    halves = [
        _turned(builder, planes[k], planes[k + 1], part)
        for part in (_LOW, _HIGH)
        for k in range(0, many, 2)
    ]
    if many == 4:
        halves = [
            _turned(builder, halves[k], halves[k + 1], part)
            for k in (0, 2)
            for part in (_FIRST, _LAST)
        ]
    each = 4 // many  # pixels in a quarter of a register
    for k, register in enumerate(halves):
        for quarter in range(4):
            for i in range(each):
                lanes = [4 * quarter + i * many + lane for lane in range(many)]
                part = shuffled(builder, register, register, lanes)
                code.store(part, pixels[4 * quarter + k * each + i])


def _from_rows(code: Code, first: Any) -> list[Any]:
    """As :func:`_pixels_of`, of pixels of four pairs that stand one after the other."""
    builder, kind = code.builder, ir.VectorType(_WORD, PIXELS)
    rows = [
        builder.load(builder.bitcast(code.off(first, k * PIXELS, 1), kind.as_pointer()), align=2)
        for k in range(4)
    ]
    halves = [
        shuffled(builder, rows[k], rows[k + 1], [4 * i + q for q in some for i in range(8)])
        for some in ((0, 1), (2, 3))
        for k in (0, 2)
    ]
    return [_half_of(builder, halves[k], halves[k + 1], which) for k in (0, 2) for which in (0, 1)]


def _to_rows(code: Code, planes: list[Any], first: Any) -> None:
    """The inverse of :func:`_from_rows`."""
    for half in (0, 1):
        one, other = (_half_of(code.builder, planes[k], planes[k + 1], half) for k in (0, 2))
        for k in (0, 1):
            order = [at + i for i in range(4 * k, 4 * k + 4) for at in (0, 8, 16, 24)]
            row = shuffled(code.builder, one, other, order)
            code.store(row, code.off(first, (2 * half + k) * PIXELS, 1))


def _half_of(builder: ir.IRBuilder, one: Any, other: Any, which: int) -> Any:
    """The lower or the upper halves of two registers, as one."""
    lanes = range(8 * which, 8 * which + 8)
    return shuffled(builder, one, other, [at + lane for at in (0, PIXELS) for lane in lanes])


def _channels_of(builder: ir.IRBuilder, blocks: list[list[Any]]) -> list[Any]:
    """Registers of pairs, one or two for each plane → registers of channels, two planes for each of pairs."""
    kind = ir.VectorType(ir.IntType(16), 2 * PIXELS)
    made = []
    for registers in zip(*blocks, strict=True):
        one, other = (builder.bitcast(each, kind) for each in (registers[0], registers[-1]))
        lanes = range(0, 2 * PIXELS * len(registers), 2)
        made += [
            shuffled(builder, one, other, [lane + which for lane in lanes]) for which in (0, 1)
        ]
    return made


def _read_of(many: int, blocks: int = 1, in_a_row: bool = False) -> Any:
    """The intrinsic that reads sixteen pixels, or so many ``blocks`` of them, of so ``many`` pairs each.

    With ``in_a_row`` that is all that a pixel has.
    """

    @intrinsic
    def read_pixels(typing_context, image, at, stride, planes, to, plane):
        """planes[to + q·plane + j] = image[at + j·stride + q] for these pixels j and so many q.

        Planes of 16 bits hold a channel each: the first of pair q is in plane 2q, the second in the next.
        """
        signature = types.void(image, _N, _N, planes, _N, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = Code(context, builder, signature.args, arguments)
            _, at, stride, _, to, plane = arguments
            first, start = code.place(0, at), code.place(3, to)
            found = []
            for block in range(blocks):
                pixels = range(block * PIXELS, (block + 1) * PIXELS)
                places = [code.off(first, many if in_a_row else stride, j) for j in pixels]
                found.append(
                    _from_rows(code, places[0]) if in_a_row else _pixels_of(code, places, many)
                )
            of_channels = signature.args[3].dtype == types.uint16
            planes = _channels_of(builder, found) if of_channels else found[0]
            for q, register in enumerate(planes):
                code.store(register, code.off(start, plane, q))
            return void(context)

        return signature, codegen

    return read_pixels


def _write_of(many: int, in_a_row: bool = False) -> Any:
    """The intrinsic that writes sixteen pixels; see :func:`_read_of`."""

    @intrinsic
    def write_pixels(typing_context, sums, of, plane, image, at, stride):
        """image[at + j·stride + q] = the pair of sums[of + 2q·plane + j] and that of the next plane."""
        signature = types.void(sums, _N, _N, image, _N, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = Code(context, builder, signature.args, arguments)
            _, of, plane, _, at, stride = arguments
            start, first = code.place(0, of), code.place(3, at)
            rows = [code.load(code.off(start, plane, o), ir.FloatType()) for o in range(2 * many)]
            planes = [paired(builder, rows[q], rows[q + 1]) for q in range(0, 2 * many, 2)]
            if in_a_row:
                _to_rows(code, planes, first)
            else:
                _pairs_of(code, planes, [code.off(first, stride, j) for j in range(PIXELS)])
            return void(context)

        return signature, codegen

    return write_pixels


read_4, read_2, read_1 = (_read_of(many) for many in (4, 2, 1))
write_4, write_2, write_1 = (_write_of(many) for many in (4, 2, 1))
read_row_4, write_row_4 = _read_of(4, in_a_row=True), _write_of(4, in_a_row=True)
read_two_4, read_two_2, read_two_1 = (_read_of(many, 2) for many in (4, 2, 1))
read_two_row_4 = _read_of(4, 2, in_a_row=True)


@intrinsic
def pack(typing_context, sums, one, other, planes, to, vectors):
    """planes[to + j] = the pair of sums[one + j] and sums[other + j], of so many vectors of sixteen."""
    signature = types.void(sums, _N, _N, planes, _N, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = Code(context, builder, signature.args, arguments)
        _, one, other, _, to, vectors = arguments
        starts, made = [code.place(0, at) for at in (one, other)], code.place(3, to)
        with counted_loop(builder, vectors) as loop:
            shift = builder.mul(loop.index, ir.Constant(ir.IntType(64), PIXELS))
            rows = [code.load(builder.gep(start, [shift]), ir.FloatType()) for start in starts]
            code.store(paired(builder, *rows), builder.gep(made, [shift]))
        return void(context)

    return signature, codegen
