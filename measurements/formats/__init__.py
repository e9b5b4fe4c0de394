"""Parsers from bytes to frozen values: each names its limits and fails closed with ``FormatError``."""
