"""The package of one's own that ``python -m cnnexp.new`` makes."""

from cnnexp.scaffold.package import check_name, make_package

__all__ = ["check_name", "make_package"]
