"""The verifier of mappings: every rule is checked from the finished mapping alone.

Nothing here uses the code that cuts, places, routes or schedules: routes are walked link by link, memories
are added up per core, and times are compared one with another. What is wrong is reported with the core and
the item.
"""

from __future__ import annotations

from collections.abc import Iterator

from sdc.errors import TargetError
from sdc.targets.neuro.mapping.mapping import Mapping
from sdc.targets.neuro.verify.partition import check_cover, check_memory, check_placement
from sdc.targets.neuro.verify.routes import check_deadlock, check_routes
from sdc.targets.neuro.verify.schedule import check_barriers, check_buffers, check_loads, check_times
from sdc.targets.neuro.verify.violation import Violation

__all__ = ["MappingError", "Violation", "check_mapping", "verify_mapping"]

_SHOWN = 20


class MappingError(TargetError):
    """A mapping breaks the rules of its machine.

    Args:
        violations: All that were found.
    """

    def __init__(self, violations: list[Violation]) -> None:
        self.violations = tuple(violations)
        lines = [str(v) for v in violations[:_SHOWN]]
        if len(violations) > _SHOWN:
            lines.append(f"... and {len(violations) - _SHOWN} more")
        super().__init__("the mapping is wrong:\n" + "\n".join(lines))


def check_mapping(mapping: Mapping) -> list[Violation]:
    """All violations, in a fixed order; empty if the mapping is right.

    Routes and times are only looked at if every tile is on an existing core: otherwise they mean nothing.
    """
    found = [*check_placement(mapping), *check_cover(mapping), *check_memory(mapping)]
    if not any(v.kind == "core-out-of-range" for v in found):
        found += _later(mapping)
    return found


def _later(mapping: Mapping) -> Iterator[Violation]:
    routes = list(check_routes(mapping))
    yield from routes
    if not routes:
        yield from check_deadlock(mapping)
    yield from check_barriers(mapping)
    yield from check_times(mapping)
    yield from check_buffers(mapping)
    yield from check_loads(mapping)


def verify_mapping(mapping: Mapping) -> None:
    """Raises if anything is wrong.

    Raises:
        MappingError: With every violation found.
    """
    found = check_mapping(mapping)
    if found:
        raise MappingError(found)
