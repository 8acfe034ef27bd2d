"""The user's own pictures, named by a table: a row a picture, with its class, labels or numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cnnexp.data.batches import seeded_generator
from cnnexp.data.image_folder import PictureFiles, add_pictures, no_pictures
from cnnexp.data.images import DataFileError, DataUnavailableError, ImageSet, pixel_statistics
from cnnexp.data.picture_files import PICTURE_ENDINGS
from cnnexp.data.table_columns import (
    Row,
    column,
    kind_of,
    labels_of,
    names_of_classes,
    read_table,
)

_TEST_SHARE = 0.2
_MEASURED = 1000  # mean and standard deviation are estimated from this many pictures
_PARTS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


def load_csv(
    file: Path | str,
    *,
    image: str | None = None,
    labels: str | Sequence[str] | None = None,
    split: str | None = None,
    val_file: Path | str | None = None,
    test_file: Path | str | None = None,
    folder: Path | str | None = None,
    targets: str | None = None,
    image_size: int | Sequence[int] = 64,
    channels: int = 3,
    value_range: Sequence[float] | None = None,
) -> ImageSet:
    """Pictures of any size and format that a .csv file names, with their classes, labels or numbers.

    Without test pictures a fifth, of classes a fifth of each, always the same, is the test set. Every picture
    is read once here, for the checksum.

    Args:
        file: The table; its first line names the columns.
        image: The column of the pictures' files, relative to ``folder``; a name without an ending gets the
            one that is there. None for the first column.
        labels: The column of the class, or the columns of labels (0 or 1) or numbers; None for all others.
        split: The column that says ``train``, ``val`` or ``test``; None for ``split``, if there is one.
        val_file, test_file: Tables, with the same columns, of validation and of test pictures.
        folder: Where the files' names begin; None for the folder of the table.
        targets: ``classes``, ``labels`` or ``numbers``; None for what the columns say, see ``kind_of``.
        image_size, channels, value_range: As for ``load_image_folder``.

    Raises:
        DataUnavailableError: A table or a picture is missing.
        DataFileError: A table or a picture cannot be read, or a value is empty or of the wrong kind.
        ValueError: A column is unknown, or a range is violated.
    """
    like = no_pictures(image_size, channels, value_range)
    table = Path(file).expanduser()
    parts = _parts(table, split, {"val": val_file, "test": test_file})
    rows = [row for part in parts.values() for row in part]
    image = column(rows, "image", image) if image else next(iter(rows[0].values))
    columns = _label_columns(rows, image, labels, split)
    kind = kind_of(rows, columns, targets)
    classes = names_of_classes(rows, columns[0]) if kind == "classes" else tuple(columns)
    if kind == "classes":
        _check_classes(parts, columns[0])
    made = {}
    for name, own in parts.items():
        files = [_picture(row, image, folder) for row in own]
        made[name] = replace(like, files=files, labels=labels_of(own, columns, kind, classes))
    _check_apart(parts, made)
    return _image_set(table, made, classes, kind)


def _image_set(
    table: Path, parts: dict[str, PictureFiles], classes: Sequence[str], kind: str
) -> ImageSet:
    """The set of ``train``, maybe ``val``, and ``test``, which is cut from the first where it is missing."""
    if "test" not in parts:
        strata = classes if kind == "classes" else ()
        parts["train"], parts["test"] = _cut(table, parts["train"], strata)
    train = parts["train"]
    order = torch.randperm(len(train), generator=seeded_generator(0))[:_MEASURED]
    mean, std = pixel_statistics([train.batch(order.sort().values)[0]])
    return ImageSet(
        table.stem,
        *(train, parts["test"], tuple(classes), mean, std, _checksum(parts)),
        val=parts.get("val"),
        targets=kind,
    )


def _parts(
    table: Path, split: str | None, others: Mapping[str, Path | str | None]
) -> dict[str, list[Row]]:
    """The rows of ``train`` and, where there are any, of ``val`` and ``test``."""
    rows = read_table(table)
    if split is None and "split" in rows[0].values:
        split = "split"
    parts: dict[str, list[Row]] = {"train": []}
    for row in rows:
        said = "train" if split is None else row.value(column(rows, "split", split))
        if said.lower() not in _PARTS:
            raise DataFileError(f"{row}: '{split}' is {said}, but must be train, val or test")
        parts.setdefault(_PARTS[said.lower()], []).append(row)
    for name, other in others.items():
        if other is None:
            continue
        if name in parts:
            raise ValueError(
                f"data.{name}_file={other}: the column '{split}' of {table} has {name} pictures already; "
                f"leave one of them out"
            )
        parts[name] = read_table(Path(other).expanduser())
        if set(parts[name][0].values) != set(rows[0].values):
            raise DataFileError(
                f"{other}: has the columns {', '.join(parts[name][0].values)}, but {table} has "
                f"{', '.join(rows[0].values)}"
            )
    if not parts["train"]:
        raise DataFileError(f"{table}: no row is for training")
    return parts


def _label_columns(
    rows: Sequence[Row], image: str, labels: str | Sequence[str] | None, split: str | None
) -> list[str]:
    if labels is None:
        others = [each for each in rows[0].values if each not in (image, split or "split")]
        if not others:
            raise DataFileError(
                f"{rows[0].file}: has no column of labels, but {', '.join(rows[0].values)}"
            )
        return others
    asked = [labels] if isinstance(labels, str) else [*labels]
    if not asked or image in asked or len(set(asked)) < len(asked):
        raise ValueError(
            f"data.labels=[{', '.join(asked)}]: must be one column or more, each once, beside '{image}'"
        )
    return [column(rows, "labels", each) for each in asked]


def _picture(row: Row, image: str, folder: Path | str | None) -> Path:
    name = row.value(image)
    file = (row.file.parent if folder is None else Path(folder).expanduser()) / name
    if file.is_file():
        return file
    endings = () if Path(name).suffix.lower() in PICTURE_ENDINGS else PICTURE_ENDINGS
    for ending in endings:
        if (found := file.with_name(f"{file.name}{ending}")).is_file():
            return found
    raise DataUnavailableError(
        f"{row}: there is no picture {file}; data.folder says where the names in '{image}' begin"
    )


def _check_classes(parts: Mapping[str, Sequence[Row]], name: str) -> None:
    """Make sure that each class is trained on."""
    known = {row.value(name) for row in parts["train"]}
    for rows in parts.values():
        for row in rows:
            if row.value(name) not in known:
                raise DataFileError(
                    f"{row}: '{name}' is {row.value(name)}, a class that no training picture has"
                )


def _check_apart(parts: Mapping[str, Sequence[Row]], made: Mapping[str, PictureFiles]) -> None:
    """Make sure that no picture is in two parts."""
    seen: dict[Path, str] = {}
    for name, rows in parts.items():
        for row, file in zip(rows, made[name].files, strict=True):
            if seen.setdefault(file.resolve(), name) != name:
                raise DataFileError(
                    f"{row}: {file} is for {name}, and for {seen[file.resolve()]} as well; no picture may "
                    f"be in two parts"
                )


def _cut(
    table: Path, whole: PictureFiles, classes: Sequence[str]
) -> tuple[PictureFiles, PictureFiles]:
    """(training, test) pictures: a fifth, of classes of each, at least one, is for the test."""
    strata = whole.labels if classes else torch.zeros(len(whole), dtype=torch.int64)
    held_out = torch.zeros(len(whole), dtype=torch.bool)
    for label in strata.unique().tolist():
        (own,) = (strata == label).nonzero(as_tuple=True)
        if len(own) < 2:
            of = f" of {classes[label]}" if classes else ""
            raise DataFileError(
                f"{table}: has one picture{of}; training and test need one each at least"
            )
        order = own[torch.randperm(len(own), generator=seeded_generator(label))]
        held_out[order[: max(1, round(_TEST_SHARE * len(own)))]] = True
    first: dict[Path, int] = {}  # by which all rows of one picture are of one part
    for row, file in enumerate(whole.files):
        held_out[row] = held_out[first.setdefault(file.resolve(), row)]
    if bool(held_out.all()) or not bool(held_out.any()):
        raise DataFileError(f"{table}: is of one picture; training and test need one each at least")
    return (
        whole.select((~held_out).nonzero(as_tuple=True)[0]),
        whole.select(held_out.nonzero(as_tuple=True)[0]),
    )


def _checksum(parts: Mapping[str, PictureFiles]) -> str:
    """The md5 of the parts' labels and of all pictures' names and contents, in order."""
    digest = hashlib.md5()
    for name in ("train", "val", "test"):
        part = parts.get(name)
        if part is None:
            continue
        digest.update(f"{name}\0".encode() + part.labels.numpy().tobytes())
        add_pictures(digest, part, lambda file: file.name)
    return digest.hexdigest()
