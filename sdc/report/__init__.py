"""Reports: a program's spikes, accuracy, energy and speed as one HTML file, put together from sections."""

from sdc.report.page import render, write_report
from sdc.report.registry import Section, Subject, section

__all__ = ["Section", "Subject", "render", "section", "write_report"]
