"""Packages that only one of the extras brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Where an import fails, say which extra to install.

    Raises:
        ModuleNotFoundError: the module is missing.

    Example:
        >>> with extra("lab"):
        ...     import no_such_module
        Traceback (most recent call last):
        ModuleNotFoundError: no_such_module is missing: pip install "flatmin[lab] @ git+<address>"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f'{error.name} is missing: pip install "flatmin[{name}] @ git+<address>"'
        raise ModuleNotFoundError(message, name=error.name) from None
