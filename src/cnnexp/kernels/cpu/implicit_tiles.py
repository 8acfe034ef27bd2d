"""The inner loops of a convolution as matrix products that are nowhere laid out, as LLVM instructions.

    product             out[r, j] = start[r, j] + Σ_{(a, b) of a list} Σ_k one[a + r + k] · other[b + k, j]
                        a register a row r and a vector of so many j, all through the list
    turn                to[k, r] = word k of source[r]           as many words as a vector has lanes
    lay, lay_rows       to[j] = the word of one[j] and other[j]  as many, or as rows are summed together
    word_at             the word of the numbers that begin at a pointer

What is multiplied is called a word here: a float32; or two neighbours in a sum over bfloat16, in 32 bits,
whose products one instruction (``vdpbf16ps``) adds to a float32. Such a word may be made of two float32,
which are rounded to even. A number of the result is a sum of its own, over the list and k in order: no bit
depends on what stands in the registers beside it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import TypingError, njit, types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.memory import shuffled
from cnnexp.kernels.cpu.numba_internals import counted_loop, register_of, void
from cnnexp.kernels.cpu.pairs import dot, rounded
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES, fused_multiply_add, splat

__all__ = [
    "LANES",
    "MOST",
    "ROWS",
    "lay",
    "lay_rows",
    "product",
    "turn",
    "word_at",
    "word_of",
]

LANES = VECTOR_BYTES // 4  # words in a register
ROWS = (
    8 if VECTOR_BYTES == 64 else 4
)  # of the result that are summed together; there are 32 registers, or 16
MOST = 3
_N = types.intp
_INDEX, _WORD, _HALF = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_WORD, LANES)


def _load(builder: ir.IRBuilder, pointer: Any, kind: Any) -> Any:
    """What of the LLVM type ``kind`` that begins at ``pointer``."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=2)


def _store(builder: ir.IRBuilder, vector: Any, pointer: Any) -> None:
    builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=2)


def _times(builder: ir.IRBuilder, number: Any, times: int, more: int = 0) -> Any:
    """``number``·``times`` + ``more``, of indices."""
    product = builder.mul(number, ir.Constant(_INDEX, times))
    return builder.add(product, ir.Constant(_INDEX, more))


def _moved(builder: ir.IRBuilder, pointer: Any, step: Any, times: int, more: int = 0) -> Any:
    """``pointer`` + ``step``·``times`` + ``more``, of elements."""
    return builder.gep(pointer, [_times(builder, step, times, more)])


def _narrowed(pointer: Any, to: Any) -> bool:
    """Whether words of pairs at ``to`` are made of float32 at ``pointer``, by their numba types."""
    return pointer.dtype == types.float32 and to.dtype == types.uint32


class _Product:
    """The code of one call of an intrinsic that sums rows of so many ``vectors``, of ``pairs`` or not."""

    def __init__(self, builder: ir.IRBuilder, vectors: int, pairs: bool) -> None:
        self.builder, self.vectors, self.pairs = builder, vectors, pairs
        self.kind = _WORDS if pairs else _FLOATS
        self.totals = [[register_of(builder, _FLOATS) for _ in range(vectors)] for _ in range(ROWS)]
        for total in [each for row in self.totals for each in row]:
            builder.store(ir.Constant(_FLOATS, [0.0] * LANES), total)

    def bases(self, one: Any, other: Any, entries: Any, scales: Any, term: Any) -> list[Any]:
        """Where the factors of this term begin."""
        made = []
        for which, base in enumerate((one, other)):
            place = self.builder.gep(entries, [_times(self.builder, term, 2, which)])
            scale = self.builder.extract_value(scales, which)
            made.append(self.builder.gep(base, [self.builder.mul(self.builder.load(place), scale)]))
        return made

    def add(self, word: Any, step: Any, columns: Any) -> None:
        """Add the products of a word of each row, ``step`` apart, and a vector of columns."""
        builder = self.builder
        values = [
            _load(builder, builder.gep(columns, [ir.Constant(_INDEX, v * LANES)]), self.kind)
            for v in range(self.vectors)
        ]
        for row, totals in enumerate(self.totals):
            factor = splat(
                builder, builder.load(_moved(builder, word, step, row), align=2), self.kind
            )
            for value, total in zip(values, totals, strict=True):
                builder.store(self._sum(builder.load(total), factor, value), total)

    def _sum(self, total: Any, factor: Any, value: Any) -> Any:
        if self.pairs:
            return dot(self.builder, total, value, factor)
        multiply_add = fused_multiply_add(self.builder, _FLOATS)
        return self.builder.call(multiply_add, [factor, value, total])

    def leave(self, start: Any, apart: Any, out: Any, step: Any, halved: bool) -> None:
        """Add rows of ``start``, and write the sums to those of ``out``."""
        builder = self.builder
        for row, totals in enumerate(self.totals):
            for v, total in enumerate(totals):
                begin = _load(builder, _moved(builder, start, apart, row, v * LANES), _FLOATS)
                made = builder.fadd(builder.load(total), begin)
                made = rounded(builder, made) if halved else made
                _store(builder, made, _moved(builder, out, step, row, v * LANES))


def _product_of(vectors: int) -> Any:
    """The intrinsic for rows of so many ``vectors``."""

    @intrinsic
    def product(typing_context, one, steps, other, entries, scales, words, start, apart, out, step):
        """out[r·step + j] = start[r·apart + j] + Σ_{a, b} Σ_k one[a + r·steps₀ + k·steps₁] · other[b + k, j].

        Args:
            one, other: Pointers to words; the rows of ``other`` have so many vectors.
            steps: Words from a row of ``one`` to the next, and from k to k + 1.
            entries: A pointer to pairs, and how many there are; a and b are these times ``scales``.
            words: How many k there are.
            start: A pointer to float32, whose rows are ``apart``.
            out: A pointer to float32, or to bfloat16 in 16 bits, whose rows are ``step`` apart.
        """
        pairs, halved = one.dtype == types.uint32, out.dtype == types.uint16
        signature = types.void(one, steps, other, entries, scales, words, start, apart, out, step)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            one, steps, other, entries, scales, words, start, apart, out, step = arguments
            row_step, k_step = (builder.extract_value(steps, i) for i in (0, 1))
            table, count = (builder.extract_value(entries, i) for i in (0, 1))
            code = _Product(builder, vectors, pairs)
            with counted_loop(builder, count) as term:
                left, right = code.bases(one, other, table, scales, term.index)
                with counted_loop(builder, words) as loop:
                    word = builder.gep(left, [builder.mul(loop.index, k_step)])
                    columns = builder.gep(right, [_times(builder, loop.index, vectors * LANES)])
                    code.add(word, row_step, columns)
            code.leave(start, apart, out, step, halved)
            return void(context)

        return signature, codegen

    return product


_product_3, _product_2, _product_1 = (_product_of(vectors) for vectors in (3, 2, 1))


@njit(**COMPILE)
def product(vectors, one, steps, other, entries, scales, words, start, apart, out, step):
    """The products of rows of so many ``vectors``, one to ``MOST``, as of :func:`_product_of`."""
    of = one, steps, other, entries, scales, words, start, apart, out, step
    if vectors == 3:
        _product_3(*of)
    elif vectors == 2:
        _product_2(*of)
    else:
        _product_1(*of)


def _turned(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """The columns of a square of registers: halves of each two change places, then quarters, and so on."""
    by = LANES // 2
    while by:
        lanes = range(LANES)
        low = [lane if not lane & by else LANES + lane - by for lane in lanes]
        high = [lane + by if not lane & by else LANES + lane for lane in lanes]
        for i in [i for i in lanes if not i & by]:
            one, other = rows[i], rows[i + by]
            rows[i] = shuffled(builder, one, other, low)
            rows[i + by] = shuffled(builder, one, other, high)
        by //= 2
    return rows


def _words(builder: ir.IRBuilder, pointer: Any, narrowed: bool) -> Any:
    """As many words as a register has, of the numbers that begin at ``pointer``."""
    if not narrowed:
        return _load(builder, pointer, _WORDS)
    halves = []
    for which in range(2):
        part = builder.gep(pointer, [ir.Constant(_INDEX, which * LANES)])
        halves.append(rounded(builder, _load(builder, part, _FLOATS)))
    return builder.bitcast(shuffled(builder, halves[0], halves[1], list(range(2 * LANES))), _WORDS)


@intrinsic
def turn(typing_context, source, row, to, step):
    """to[k·step + r] = word k of the numbers from source[r·row] on, r and k below the lanes of a register."""
    signature, narrowed = types.void(source, _N, to, _N), _narrowed(source, to)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, row, to, step = arguments
        rows = [_words(builder, _moved(builder, source, row, r), narrowed) for r in range(LANES)]
        for k, register in enumerate(_turned(builder, rows)):
            _store(builder, register, _moved(builder, to, step, k))
        return void(context)

    return signature, codegen


@intrinsic
def word_at(typing_context, pointer, to):
    """The word, as those at ``to`` are, of the numbers that begin at ``pointer``."""
    narrowed = _narrowed(pointer, to)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if not narrowed:
            return _load(builder, arguments[0], context.get_value_type(to.dtype))
        numbers = _load(builder, arguments[0], ir.VectorType(ir.FloatType(), 2))
        register = shuffled(builder, numbers, numbers, [0, 1] * (LANES // 2))
        words = builder.bitcast(rounded(builder, register), ir.VectorType(_WORD, LANES // 2))
        return builder.extract_element(words, ir.Constant(_INDEX, 0))

    return to.dtype(pointer, to), codegen


@intrinsic
def word_of(typing_context, number, like):
    """The word of a number that has none beside it: itself, or with a 0 where words are of pairs."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.zext(arguments[0], _WORD) if like == types.uint32 else arguments[0]

    return like(number, like), codegen


def _lay_of(lanes: int) -> Any:
    """The intrinsic that lays so many words side by side."""

    @intrinsic
    def lay_words(typing_context, one, other, to):
        """to[j] = the word of one[j] and other[j], or one[j] where words are float32, of pointers."""
        pairs, narrowed = to.dtype == types.uint32, _narrowed(one, to)
        if narrowed and lanes != LANES:
            raise TypingError("float32 is rounded a register at a time")
        part = ir.VectorType(_HALF if pairs and not narrowed else _WORD, lanes)

        def numbers(builder: ir.IRBuilder, pointer: Any) -> Any:
            if narrowed:  # as many as a register has
                return rounded(builder, _load(builder, pointer, _FLOATS))
            return _load(builder, pointer, part)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            words = numbers(builder, arguments[0])
            if pairs:
                order = [i + lanes * which for i in range(lanes) for which in (0, 1)]
                words = shuffled(builder, words, numbers(builder, arguments[1]), order)
            _store(builder, words, arguments[2])
            return void(context)

        return types.void(one, other, to), codegen

    return lay_words


lay, lay_rows = _lay_of(LANES), _lay_of(ROWS)
