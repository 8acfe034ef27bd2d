"""One image forward and backward through a network, with every number, as an HTML page."""

from cnnexp.explanation.page import Origin, write_page
from cnnexp.explanation.pull import Pull, pull_of
from cnnexp.explanation.subject import (
    Subject,
    class_named,
    load_untrained,
    numbered_image,
    picture,
)
from cnnexp.explanation.trace import Step, Trace, trace

__all__ = [
    "Origin",
    "Pull",
    "Step",
    "Subject",
    "Trace",
    "class_named",
    "load_untrained",
    "numbered_image",
    "picture",
    "pull_of",
    "trace",
    "write_page",
]
