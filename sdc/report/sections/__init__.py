"""The sections that sdc brings; see :mod:`sdc.report.registry`."""
