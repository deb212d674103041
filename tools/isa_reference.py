"""Writes the instruction tables into docs/isa.md from the instruction table in the code.

python tools/isa_reference.py            write docs/isa.md
python tools/isa_reference.py --check    exit 1 if docs/isa.md is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from sdc.targets.neuro.isa.document import insert_tables

TARGET = Path(__file__).parent.parent / "docs" / "isa.md"


def main() -> int:
    """Writes or checks the page."""
    text = TARGET.read_text()
    wanted = insert_tables(text)
    if "--check" in sys.argv[1:]:
        return int(text != wanted)
    TARGET.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
