"""What a user runs: the config, the stages on Ray, the command line and the report."""

__version__ = "0.1.0"
