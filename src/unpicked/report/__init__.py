"""The report of a run: one HTML page that needs nothing beside itself."""

from unpicked.report.page import report

__all__ = ["report"]
