"""The directory that a compile writes: manifest, weights, library, tokenizer, statistics."""

from sdc.artefact.directory import FORMAT_VERSION, MANIFEST, Artefact, open_artefact, writing

__all__ = ["FORMAT_VERSION", "MANIFEST", "Artefact", "open_artefact", "writing"]
