"""The wheel works as the checkout does: conf/ travels inside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_the_wheel_holds_the_code_the_config_tree_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    conf = {f"cnnexp/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    files = [
        file
        for ending in ("*.py", "py.typed", "*.html", "*.css", "*.js", "*.txt")
        for file in (ROOT / "src").rglob(ending)
    ]
    code = {str(file.relative_to(ROOT / "src")) for file in files}
    assert names == conf | code
    assert "cnnexp/py.typed" in names  # or type checkers take all of it for Any


def test_an_installed_wheel_runs_in_an_empty_folder(wheel: Path, empty_folder: Path) -> None:
    site = empty_folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, timeout=120)
    work = empty_folder / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import cnnexp; print(cnnexp.__file__)"]
    found = subprocess.run(
        where, cwd=work, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(site)
    command = [sys.executable, "-m", "cnnexp.train", "data=digits", "model=lenet5"]
    # kernels, which are compiled anew here, have their tests elsewhere
    command += ["trainer.max_epochs=1", "accelerator=cpu", "backward=direct"]
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (result,) = work.glob("outputs/train/lenet5/*/result.json")
    assert '"dataset": "digits"' in result.read_text()
    find = [sys.executable, "-m", "cnnexp.lr_find", "data=digits", "model=lenet5", "optimizer=sgd"]
    find += ["accelerator=cpu", "backward=native", "--from=1e-2", "--steps=30"]
    found = subprocess.run(
        find, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert "optimizer.lr=" in found.stdout
    assert len([*work.glob("outputs/lr_find/lenet5/*/lr_find.png")]) == 1
    provenance = result.with_name("provenance.json").read_text()
    assert '"git": null' in provenance  # an installed package has no checkout


def test_an_installed_wheel_makes_a_package_that_trains_and_fits(
    wheel: Path, empty_folder: Path
) -> None:
    site = empty_folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, timeout=120)
    work = empty_folder / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    program = (
        "import cnnexp, torch; from torch import nn; from cnnexp.nn import per_sample_norms;"
        "net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2));"
        "x, y = torch.randint(256, (60, 8, 8), dtype=torch.uint8), torch.arange(60) % 2;"
        "run = cnnexp.fit(net, (x, y), epochs=1, progress=False, accelerator='cpu', backward='direct');"
        "batch = x.unsqueeze(1) / 255, y;"
        "print(len(run.metrics), per_sample_norms(net, nn.CrossEntropyLoss(), batch).shape)"
    )
    short = ("experiment=first", "trainer.max_epochs=1", "accelerator=cpu", "backward=direct")
    for folder, arguments, said in (
        (work, ("-m", "cnnexp.new", "lab_of_mine"), "lab_of_mine/conf/model/lab_of_mine_net.yaml"),
        (work / "lab_of_mine", ("-m", "lab_of_mine", *short), "run folder outputs/train/first"),
        (work, ("-c", program), "1 torch.Size([60])"),
    ):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
