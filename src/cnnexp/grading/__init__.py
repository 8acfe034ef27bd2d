"""Grade a backward that somebody has written: right or wrong, and what the mistake is called.

>>> from cnnexp.grading import grade
>>> def forward(x):
...     return x * (x > 0)
>>> def backward(grad_output, x):
...     return grad_output
>>> result = grade("relu", forward=forward, backward=backward)
>>> bool(result), result.findings[0].name
(False, "ReLU's mask missing, or taken from the output's sign")
"""

from cnnexp.grading.contract import CONTRACTS, Contract
from cnnexp.grading.grader import grade, grade_file
from cnnexp.grading.process import Limits
from cnnexp.grading.result import Example, Finding, Verdict
from cnnexp.grading.shown import Grade

__all__ = [
    "CONTRACTS",
    "Contract",
    "Example",
    "Finding",
    "Grade",
    "Limits",
    "Verdict",
    "grade",
    "grade_file",
]
