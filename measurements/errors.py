"""The exceptions of this package. Each message says what was wrong, what was expected, and what to do."""

from __future__ import annotations


class MeasurementError(Exception):
    """Root of everything this package raises on purpose."""


class FormatError(MeasurementError):
    """Bytes or text that do not follow their specification."""


class LimitError(FormatError):
    """Input that exceeds a named limit (size, count, length, nesting)."""


class PredictionError(MeasurementError):
    """The inputs of a prediction contradict each other or are incomplete."""


class NotPredictableError(PredictionError):
    """The value cannot be derived from the inputs; the message says what would make it derivable."""


class SignatureError(MeasurementError):
    """A signature, certificate chain or key does not hold."""


class VerificationError(MeasurementError):
    """Evidence does not match its reference values."""
