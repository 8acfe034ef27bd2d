"""Reports on many runs as tables, curves and one page. They read run folders and train nothing."""

from cnnexp.reporting.gather import Run, gather, settings_that_differ, warnings_about
from cnnexp.reporting.groups import Curve, Group, group_runs
from cnnexp.reporting.scores import (
    Compared,
    compared,
    comparison_table,
    score_table,
    write_comparison,
)
from cnnexp.reporting.tables import results_table, summary_table, write_tables

__all__ = [
    "Compared",
    "Curve",
    "Group",
    "Run",
    "compared",
    "comparison_table",
    "gather",
    "group_runs",
    "results_table",
    "score_table",
    "settings_that_differ",
    "summary_table",
    "warnings_about",
    "write_comparison",
    "write_tables",
]
