"""Which runs can be resumed, and which can be made longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnexp.config import ConfigError
from cnnexp.config.resumption import check_resumable
from cnnexp.regularization import EMA, SWA
from cnnexp.runs import RunFolder

PARTS = "lightning.pytorch.callbacks."


@pytest.mark.parametrize(
    ("callback", "refused"),
    [
        ("ModelPruning", True),
        ("EMAWeightAveraging", True),
        ("WeightAveraging", True),
        ("ModelCheckpoint", False),
    ],
)
def test_a_callback_that_ends_with_other_weights_ends_the_run(
    callback: str, refused: bool, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    config = {"trainer": {"max_epochs": 2}, "callbacks": {"x": {"_target_": PARTS + callback}}}
    folder.write_config(config)
    folder.write_status("done")
    longer = {**config, "trainer": {"max_epochs": 4}}
    if not refused:
        check_resumable(folder, longer, "checksum")
        return
    with pytest.raises(ConfigError) as error:
        check_resumable(folder, longer, "checksum")
    assert str(error.value) == (
        f"trainer.max_epochs=4: {PARTS}{callback} ends a run with other weights than those it trained with, "
        f"so that it cannot be extended"
    )


def test_a_regulariser_that_counts_the_epochs_ends_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config({"trainer": {"max_epochs": 2}})
    folder.write_status("done")
    longer = {"trainer": {"max_epochs": 4}}
    check_resumable(folder, longer, "checksum", [EMA(0.9)])
    refused = (
        "trainer.max_epochs=4: swa averages the last of 2 epochs, so that it cannot be extended"
    )
    with pytest.raises(ConfigError, match=refused):
        check_resumable(folder, longer, "checksum", [SWA(0.5)])
