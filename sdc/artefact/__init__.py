"""Compiled programs on disk: written whole or not at all, checked before anything in them runs."""

from sdc.artefact.reader import Artefact, open_artefact
from sdc.artefact.writer import FORMAT_VERSION, MANIFEST, staged, write_manifest

__all__ = ["FORMAT_VERSION", "MANIFEST", "Artefact", "open_artefact", "staged", "write_manifest"]
