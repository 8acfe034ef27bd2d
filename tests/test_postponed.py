from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BEGIN = "from cnnexp.postponed import postpone_unused\npostpone_unused()\n"  # before Lightning
# what no usual training needs for its first step, and what would take as long to import as all else
UNUSED = (
    "matplotlib",
    "pandas",
    "scipy.linalg._basic",
    "scipy.signal",
    "sklearn",
    "torch._dynamo.utils",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torchmetrics.functional",
    "torchvision",
    "triton",
)


def told(program: str, *arguments: str, folder: Path | None = None) -> Any:
    """What a new process prints last, as JSON; it prints no warning."""
    # matplotlib before 3.10.8 beside a newer pyparsing
    others = ("matplotlib._fontconfig_pattern", "matplotlib._mathtext")
    forgiven = [f"-Wignore::DeprecationWarning:{module}" for module in others]
    command = [sys.executable, "-W", "error", *forgiven, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("backward", ["direct", "auto"])
def test_before_its_first_step_a_training_imports_what_it_needs(
    backward: str, tmp_path: Path
) -> None:
    program = (
        "import json, runpy, sys\n"
        "from torch.optim.optimizer import register_optimizer_step_post_hook\n"
        "class Over(BaseException): pass\n"
        "def over(*_arguments): raise Over\n"
        "register_optimizer_step_post_hook(over)\n"
        "try: runpy.run_module('cnnexp.train', run_name='__main__', alter_sys=True)\n"
        "except Over: print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    options = ("data=synthetic", f"backward={backward}", "accelerator=cpu", "logger=tensorboard")
    imported = told(program, *options, "model=lenet5", folder=tmp_path)
    assert set(imported) & set(UNUSED) == set()
    assert {"lightning", "torch.utils.tensorboard"} <= set(imported)


METRICS = """
import json, sys, torch, lightning, torchmetrics

class Count(torchmetrics.Metric):
    def __init__(self):
        super().__init__()
        self.add_state("n", torch.tensor(0.0), dist_reduce_fx="sum")
    def update(self): self.n += 1
    def compute(self): return self.n

count = Count()
count.update()
before = {"matplotlib", "torchmetrics.functional"} & set(sys.modules)
import scipy, torch.utils.flop_counter
by_name = (torch.utils.flop_counter, scipy.linalg, torchmetrics.utilities.plot)
names = ("torch.utils.flop_counter", "scipy.linalg", "torchmetrics.utilities.plot")
assert by_name == tuple(map(sys.modules.get, names))
figure, axes = count._plot()
kind = type(torchmetrics).__name__
made = torchmetrics.Accuracy("multiclass", num_classes=3)
from torchmetrics.functional import accuracy
same = sys.modules["torchmetrics"] is torchmetrics and isinstance(made, torchmetrics.Metric)
print(json.dumps([len(before), type(figure).__name__, kind, type(torchmetrics).__name__, same]))
"""


def test_a_postponed_package_is_the_real_one_once_it_is_asked() -> None:
    # the metric of torchmetrics' base alone is drawn before the package is executed
    assert told(BEGIN + METRICS) == [0, "Figure", "_Postponed", "module", True]


COMPILES = """
import json, sys, torch, lightning
from torch import nn
from lightning.pytorch.utilities.compile import OptimizedModule
net = nn.Linear(3, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
net(torch.ones(1, 3)).sum().backward()
optimizer.step()
before = "torch._dynamo.utils" in sys.modules
plain = isinstance(net, OptimizedModule)
compiled = torch.compile(net, backend="eager")
whole = torch.compile(lambda x: net(x).relu(), backend="eager", fullgraph=True)
whole(torch.ones(1, 3))
compiled(torch.ones(1, 3)).sum().backward()
optimizer.step()
left = [f for f in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad)
        if vars(f.__wrapped__).get("__dynamo_disable") is f.__wrapped__]
from torch._dynamo import OptimizedModule as real
import torch._dynamo.utils as utils
print(json.dumps([before, plain, isinstance(compiled, OptimizedModule), type(compiled) is real,
                  len(left), utils is sys.modules["torch._dynamo.utils"],
                  utils.__spec__.name, type(torch._dynamo).__name__]))
"""


def test_torchs_compiler_is_there_when_something_is_compiled() -> None:
    expected = [False, False, True, True, 0, True, "torch._dynamo.utils", "module"]
    assert told(BEGIN + COMPILES) == expected


def test_a_module_below_a_postponed_one_is_imported_once() -> None:
    program = BEGIN + (
        "import json, sys\nfrom torch._dynamo.utils import counters\nimport torch\n"
        "there = sys.modules['torch._dynamo.utils']\n"
        "print(json.dumps([there is torch._dynamo.utils, counters is there.counters]))\n"
    )
    assert told(program) == [True, True]


OTHERWISE = """
import json, sys
from importlib.abc import MetaPathFinder

class Once(MetaPathFinder):
    asked = 0
    def find_spec(self, name, path, target=None):
        if name == "torchmetrics.utilities":
            self.asked += 1
            if self.asked == 1:
                raise ImportError("of another version")

once = Once()
sys.meta_path.insert(0, once)
postpone_unused()
import torchmetrics
print(json.dumps([type(torchmetrics).__name__, hasattr(torchmetrics, "Accuracy"), once.asked > 1]))
"""


def test_metrics_of_a_version_that_is_built_otherwise_are_imported_as_usual() -> None:
    begin = BEGIN.partition("\n")[0] + "\n"
    assert told(begin + OTHERWISE) == ["module", True, True]


def test_nothing_is_postponed_in_jobs_that_are_forked_from_a_warm_server() -> None:
    program = (
        "import json, sys, cnnexp.execution.warm\n"
        + BEGIN
        + "names = ('torch._dynamo', 'torchmetrics', 'torch.utils.flop_counter', 'scipy.linalg')\n"
        "print(json.dumps([type(sys.modules[name]).__name__ for name in names]))\n"
    )
    assert told(program) == ["module"] * 4


COLLECTOR = """
import gc, json, sys, weakref
BEFORE
gc.collect()
gc.callbacks.append(lambda phase, info: seen.append(phase))
seen = []
with quick_imports():
    if gc.isenabled(): raise AssertionError
    import torch, lightning
    imported = len(seen)
kept = gc.get_freeze_count() > 10_000
class Ring: pass
ring = Ring()
ring.itself, seen_from = ring, weakref.ref(ring)
del ring
gc.collect()
print(json.dumps([imported, gc.isenabled(), kept, seen_from() is None]))
"""


@pytest.mark.parametrize(("before", "kept"), [("", True), ("import torch", False)])
def test_garbage_is_collected_again_after_the_imports(before: str, kept: bool) -> None:
    begin = "from cnnexp.postponed import quick_imports\n"
    assert told(begin + COLLECTOR.replace("BEFORE", before)) == [0, True, kept, True]


def test_who_collects_no_garbage_is_left_alone() -> None:
    program = (
        "import gc, json\nfrom cnnexp.postponed import quick_imports\ngc.disable()\n"
        "with quick_imports(): import torch\n"
        "print(json.dumps([gc.isenabled(), gc.get_freeze_count()]))\n"
    )
    assert told(program) == [False, 0]


def test_garbage_is_collected_after_imports_that_failed() -> None:
    program = (
        "import gc, json\nfrom cnnexp.postponed import quick_imports\n"
        "try:\n    with quick_imports(): import no_such_package\n"
        "except ImportError: print(json.dumps([gc.isenabled(), gc.get_freeze_count()]))\n"
    )
    assert told(program) == [True, 0]
