"""What is raised for data that cannot be used, and for simulators that are not there."""


class DatasetError(ValueError):
    """Data that cannot be read, written or used; the text names file, value and way out."""


class SimulatorMissing(DatasetError):
    """A simulator that is not installed; what can do without it catches this."""
