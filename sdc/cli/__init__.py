"""The command line: every verb is a library call with its arguments parsed and its result printed."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of ``sdc``: exit status 2 and one paragraph on an error that a user can mend."""
    from sdc.cli.app import app
    from sdc.errors import SdcError

    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=True)
    except SdcError as error:
        if debug:
            raise
        print(f"sdc: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("sdc: interrupted", file=sys.stderr)
        sys.exit(130)
