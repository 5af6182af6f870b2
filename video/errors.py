"""The one error that this package raises for data it cannot use."""


class DatasetError(ValueError):
    """Data that cannot be read, written or used; the text names file, value and way out."""
