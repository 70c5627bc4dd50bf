"""What the data room raises: `DataError`, text that could not be had, as opposed to a wrong key.

A configuration that could never work raises `spam_lab.config.fields.ConfigError` instead.
"""

from __future__ import annotations


class DataError(RuntimeError):
    """Data could not be reached or read. Its text names what, and what to do about it."""
