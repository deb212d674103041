"""The one hierarchy of errors that sdc raises for people to read.

Every message says what was wrong, where (node, operation or file) and what to do next. The command line
prints it as one paragraph, without a traceback, and exits with status 2.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArtefactError",
    "ConfigError",
    "CorruptArtefactError",
    "DeviceMemoryError",
    "DownloadError",
    "InvalidModelError",
    "ModelError",
    "NoDeviceError",
    "NumericsError",
    "PassError",
    "PostconditionError",
    "SdcError",
    "TargetError",
    "UnsupportedOpError",
    "VersionError",
]


class SdcError(Exception):
    """Base of all errors that a user can cause or mend."""


class ConfigError(SdcError):
    """A setting is out of range, or two settings contradict each other."""


class DownloadError(SdcError):
    """A file could not be fetched, or what arrived is not what was asked for."""


class ModelError(SdcError):
    """The input model cannot be compiled."""


class InvalidModelError(ModelError):
    """The file is damaged, incomplete, or breaks the ONNX / GGUF specification."""


class UnsupportedOpError(ModelError):
    """The model is valid, but holds operations that nothing here can lift.

    Args:
        offenders: One line per operation, each with node name, operator and domain.
        hint: What to do next.
    """

    def __init__(self, offenders: Sequence[str], hint: str = "see docs/adding-a-flavour.md") -> None:
        self.offenders = tuple(offenders)
        count = len(self.offenders)
        what = "an operation" if count == 1 else f"{count} operations"
        super().__init__(
            f"the model holds {what} without a lifting rule: {'; '.join(self.offenders)} ({hint})"
        )


class PassError(SdcError):
    """A pass met something it must not meet.

    Args:
        pass_name: Kebab-case name of the pass.
        message: What was wrong, and in which operation.
    """

    def __init__(self, pass_name: str, message: str) -> None:
        self.pass_name = pass_name
        super().__init__(f"pass {pass_name}: {message}")


class PostconditionError(PassError):
    """What a pass promises does not hold after it ran: a defect of the pass, not of the model."""


class NumericsError(SdcError):
    """NaN or infinity in a weight or an activation, or an accumulator that could overflow.

    Args:
        op_name: The operation (or parameter) it was found in.
        message: What was found.
    """

    def __init__(self, op_name: str, message: str) -> None:
        self.op_name = op_name
        super().__init__(f"{op_name}: {message}")


class TargetError(SdcError):
    """A target cannot build or run the program."""


class NoDeviceError(TargetError):
    """The device that the program was compiled for is not on this machine."""


class DeviceMemoryError(TargetError):
    """The device's free memory does not hold the program."""


class ArtefactError(SdcError):
    """A compiled program cannot be opened."""


class CorruptArtefactError(ArtefactError):
    """A file of the artefact is missing, or its hash is not the one in the manifest."""


class VersionError(ArtefactError):
    """The artefact was written in a format version that this sdc does not read."""
