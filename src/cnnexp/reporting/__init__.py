"""Reports on many runs as tables, curves and one page. They read run folders and train nothing."""

from cnnexp.reporting.gather import Run, gather, settings_that_differ, warnings_about
from cnnexp.reporting.groups import Curve, Group, group_runs
from cnnexp.reporting.paired import (
    Difference,
    difference_table,
    differences,
    explained,
    of_the_best,
    write_differences,
)
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
    "Difference",
    "Group",
    "Run",
    "compared",
    "comparison_table",
    "difference_table",
    "differences",
    "explained",
    "gather",
    "group_runs",
    "of_the_best",
    "results_table",
    "score_table",
    "settings_that_differ",
    "summary_table",
    "warnings_about",
    "write_comparison",
    "write_differences",
    "write_tables",
]
