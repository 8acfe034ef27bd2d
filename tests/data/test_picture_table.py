"""``data=csv``: what a table may hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.data import (
    DataFileError,
    DataUnavailableError,
    ImageDataModule,
    ImageSet,
    PictureFiles,
    load_csv,
)
from cnnexp.runs import RunFolder
from cnnexp.training import run_training


def _table(folder: Path, *rows: str, head: str = "file,kind", name: str = "mine.csv") -> Path:
    file = folder / name
    file.write_text("\n".join((head, *rows)) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """20 pictures, 00.png to 19.png, in a folder beside the tables."""
    random = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        pixels = random.integers(0, 256, (6, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i:02}.png")
    return tmp_path


def _load(file: Path, **options: Any) -> ImageSet:
    return load_csv(file, image_size=4, channels=1, **options)


def test_classes_by_name_and_a_fixed_test(pictures: Path) -> None:
    rows = [f"pictures/{i:02}.png,{'cat' if i % 2 else 'dog'}" for i in range(20)]
    images = _load(_table(pictures, *rows))
    assert (images.name, images.targets, images.classes) == ("mine", "classes", ("cat", "dog"))
    assert (len(images.train), images.train.shape) == (16, (1, 4, 4))
    assert torch.bincount(images.test.labels).tolist() == [2, 2]
    assert images.checksum == _load(_table(pictures, *rows)).checksum
    turned = [row.replace("cat", "x").replace("dog", "cat").replace("x", "dog") for row in rows]
    assert images.checksum != _load(_table(pictures, *turned)).checksum


def test_classes_that_are_numbers_are_in_their_order(pictures: Path) -> None:
    rows = [f"{i:02},{(2, 10, 9)[i % 3]}" for i in range(20)]  # and files without an ending
    images = _load(_table(pictures, *rows), folder=pictures / "pictures")
    assert images.classes == ("2", "9", "10")


@pytest.mark.parametrize("between", [";", "\t"])
def test_labels_numbers_and_other_columns(pictures: Path, between: str) -> None:
    rows = [
        between.join((f"{i:02}.png", str(i % 2), str(i % 3 // 2), str(i / 4), "said, so"))
        for i in range(20)
    ]
    file = _table(pictures, *rows, head=between.join(("file", "a", "b", "x", "note")))
    given = {"folder": pictures / "pictures"}
    labels = _load(file, labels=["a", "b"], **given)
    assert (labels.targets, labels.classes) == ("labels", ("a", "b"))
    assert labels.train.labels.dtype == torch.float32
    numbers = _load(file, labels="x", **given)
    assert (numbers.targets, tuple(numbers.train.labels.shape)) == ("numbers", (16, 1))
    both = _load(file, labels=["a", "b"], targets="numbers", **given)
    assert both.targets == "numbers"
    assert isinstance(numbers.train, PictureFiles)
    expected = [[int(file.stem) / 4] for file in numbers.train.files]
    assert numbers.train.batch(torch.arange(16))[1].tolist() == expected


def test_parts_by_a_column_and_by_tables(pictures: Path) -> None:
    parts = ["train"] * 12 + ["valid"] * 4 + ["TEST"] * 4
    rows = [f"pictures/{i:02}.png,{'ab'[i % 2]},{part}" for i, part in enumerate(parts)]
    images = _load(_table(pictures, *rows, head="file,kind,split"))
    assert images.val is not None
    assert (len(images.train), len(images.val), len(images.test)) == (12, 4, 4)
    assert images.classes == ("a", "b")
    named = _load(_table(pictures, *rows, head="file,kind,part"), labels="kind", split="part")
    assert len(named.test) == 4
    own = [row.rpartition(",")[0] for row in rows]
    test = _table(pictures, *own[12:], name="test.csv")
    apart = _load(_table(pictures, *own[:12]), test_file=test)
    assert (len(apart.train), len(apart.test), apart.val) == (12, 8, None)
    module = ImageDataModule(lambda: images, val_size=3)
    assert (len(module.train), module.val) == (12, images.val)


GOOD = [f"pictures/{i:02}.png,{'ab'[i % 2]}" for i in range(6)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([*GOOD, "pictures/99.png,a"], {}, r"mine\.csv, line 8: there is no picture .*99\.png; data\.fo"),
        ([*GOOD, "pictures/07.png,"], {}, r"line 8: 'kind' is empty; fill it in"),
        ([*GOOD, "pictures/07.png"], {}, r"line 8: has 1 columns, but the first line names 2: file, kind"),
        ([*GOOD, '"pictures/07.png,a'], {}, r"mine\.csv, line 8: unexpected end of data"),
        ([], {}, r"mine\.csv: has no rows below its first line"),
        (GOOD[::2], {}, r"mine\.csv: 'kind' is a in all rows; two classes at least"),
        ([*GOOD, "pictures/07.png,c"], {}, r"mine\.csv: has one picture of c; training and test need"),
        (GOOD, {"labels": "kinds"}, r"data\.labels=kinds: .* but file, kind\. Did you mean 'kind'"),
        (GOOD, {"image": "picture"}, r"data\.image=picture: .* has no such column, but file, kind"),
        (GOOD, {"split": "part"}, r"data\.split=part: .* has no such column"),
        (GOOD, {"labels": ["file"]}, r"data\.labels=\[file\]: must be one column or more"),
        (GOOD, {"targets": "numbers"}, r"line 2: 'kind' is a, but must be a finite number, as the labels"),
        (GOOD, {"targets": "class"}, r"data\.targets=class: must be classes, labels or numbers"),
        (GOOD, {"test_file": "none.csv"}, r"there is no file none\.csv"),
        (GOOD, {"image_size": 0}, r"an image_size of at least 1, or .* and 1 or 3 channels"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    pictures: Path, rows: list[str], options: dict[str, Any], message: str
) -> None:
    file = _table(pictures, *rows)
    with pytest.raises((ValueError, DataFileError, DataUnavailableError), match=message):
        load_csv(file, **{"image_size": 4, "channels": 1, **options})


def test_parts_that_do_not_go_together(pictures: Path) -> None:
    rows = [f"{row},{part}" for row, part in zip(GOOD, ["train"] * 4 + ["test"] * 2, strict=True)]
    head = "file,kind,split"
    with pytest.raises(
        DataFileError, match=r"line 8: .*00\.png is for test, and for train as well"
    ):
        _load(_table(pictures, *rows, "pictures/00.png,a,test", head=head))
    with pytest.raises(
        DataFileError, match=r"line 8: 'split' is tset, but must be train, val or test"
    ):
        _load(_table(pictures, *rows, "pictures/09.png,a,tset", head=head))
    with pytest.raises(
        DataFileError, match=r"line 8: 'kind' is z, a class that no training picture"
    ):
        _load(_table(pictures, *rows, "pictures/09.png,z,test", head=head))
    with pytest.raises(ValueError, match=r"data\.test_file=.*has test pictures already"):
        _load(_table(pictures, *rows, head=head), test_file=_table(pictures, *rows, name="t.csv"))
    with pytest.raises(DataFileError, match=r"other\.csv: has the columns file, sort, but"):
        _load(
            _table(pictures, *GOOD),
            val_file=_table(pictures, *GOOD, head="file,sort", name="other.csv"),
        )
    with pytest.raises(DataFileError, match=r"two columns or more, each once, but is 'file,file'"):
        _load(_table(pictures, *GOOD, head="file,file"))
    (pictures / "latin.csv").write_bytes(b"file,kind\n\xe4.png,a\n")
    with pytest.raises(DataFileError, match=r"latin\.csv: is no text in UTF-8"):
        _load(pictures / "latin.csv")


def test_numbers_from_a_table_train(pictures: Path, empty_folder: Path) -> None:
    register_resolvers()
    rows = [f"pictures/{i:02}.png,{i / 20}" for i in range(20)]
    given = [
        *(
            "data=csv",
            f"data.file={_table(pictures, *rows)}",
            "data.image_size=8",
            "data.channels=1",
        ),
        *("data.num_workers=0", "data.batch_size=4", "model=tiny", "backward=native", "loss=mse"),
        *("checkpoint.monitor=val/mae", "accelerator=cpu", "trainer.max_epochs=1", "logger=none"),
    ]
    job = build_job(plain_config(Composer("train").compose(given)))
    check_job(job)
    result = run_training(job, RunFolder(empty_folder))
    assert result["test/mae"] > 0


def test_rows_of_one_picture_are_of_one_part(pictures: Path) -> None:
    """As a table of several objects a picture has them: none is trained on and tested."""
    rows = [f"pictures/{i % 10:02}.png,{'cat' if i % 10 < 5 else 'dog'}" for i in range(40)]
    images = _load(_table(pictures, *rows))
    assert isinstance(images.train, PictureFiles)
    assert isinstance(images.test, PictureFiles)
    assert not set(images.train.files) & set(images.test.files)
    assert len(images.train) + len(images.test) == 40
    one = _table(
        pictures, *[f"pictures/00.png,{kind}" for kind in ("cat", "dog") * 2], name="one.csv"
    )
    with pytest.raises(DataFileError, match="is of one picture; training and test need one each"):
        _load(one)
