"""The report of a run: one HTML page that needs nothing beside itself."""

from unpicked.report.write import report

__all__ = ["report"]
