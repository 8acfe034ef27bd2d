from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning.pytorch.profilers import SimpleProfiler

from cnnexp.training.trainer_settings import NoProfiler, lightning_settings
from tests.training.resumable import small_job


def test_where_nothing_is_profiled_no_context_is_made(tmp_path: Path) -> None:
    job = small_job()
    profiler = lightning_settings(job, tmp_path)["profiler"]
    assert isinstance(profiler, NoProfiler)
    with profiler.profile("outer") as outer, profiler.profile("inner"):
        assert profiler.profile("a") is profiler.profile("b")
    assert outer is None


def test_a_profiler_that_is_asked_for_is_used(tmp_path: Path) -> None:
    job = small_job()
    asked = replace(job, trainer={**job.trainer, "profiler": lambda _folder: SimpleProfiler()})
    assert isinstance(lightning_settings(asked, tmp_path)["profiler"], SimpleProfiler)
