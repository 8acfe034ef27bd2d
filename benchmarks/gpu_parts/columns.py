"""The columns of gpu.csv; needs nothing but Python."""

__all__ = ["COLUMNS"]

COLUMNS: tuple[str, ...] = (
    "part",  # of the benchmark
    "what",  # is measured or tried
    "way",  # how
    "state",  # ok | failed | skipped | killed
    "value",
    "unit",
    "ratio",  # of the value to torch's, where torch has one
    "peak_mb",  # GPU memory at the peak, by torch's allocator; on a CPU the process's memory
    "seconds",  # that the row took
    "note",  # the reason, where it is not ok
    "device",
    "torch",
    "cnnexp",
    "date",
)
