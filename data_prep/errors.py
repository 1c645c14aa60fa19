"""The one exception of this package that its commands turn into a line and exit code 2."""

from __future__ import annotations


class InputError(ValueError):
    """Input or an option that cannot be used: what, where, what was got, what to do."""
