"""Machine descriptions: the shipped ones are complete and cited, and mistakes are told with their line."""

import re
from importlib.resources import files

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sdc.errors import SdcError
from sdc.targets.neuro.machine import (
    Grid,
    Machine,
    MachineError,
    load_machine,
    parse_machine,
    shipped_machines,
)

TEXT = files("sdc.targets.neuro.machines").joinpath("generic.yaml").read_text()


def line_of(text: str, word: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith(word))


@pytest.mark.parametrize("name", shipped_machines())
def test_every_number_of_a_shipped_machine_is_cited_on_its_line(name: str) -> None:
    text = files("sdc.targets.neuro.machines").joinpath(f"{name}.yaml").read_text()
    keys = set(re.findall(r"^#   \[(\w+)\]", text, re.M))
    for number, line in enumerate(text.splitlines(), 1):
        value = re.match(r"\s*\w+:\s*[\[{]?[\d]", line)
        if not value:
            continue
        comment = line.partition("#")[2]
        cited = set(re.findall(r"\[(\w+)\]", comment))
        assert cited <= keys, f"{name}:{number} cites {cited - keys}, which the head does not explain"
        named = cited or re.search(r"assumed|no external memory|\w+\.global/", comment)
        assert named, f"{name}:{number} has neither a citation nor the word assumed"


def test_the_shipped_machines_are_the_five() -> None:
    assert shipped_machines() == (
        "darwin3-like",
        "generic",
        "loihi2-like",
        "northpole-like",
        "spinnaker2-like",
    )
    for name in shipped_machines():
        assert load_machine(name).name == name


def test_a_users_own_file_works_the_same(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("name: generic", "name: mine"))
    assert load_machine(path).name == "mine"
    assert load_machine(path).board == load_machine("generic").board


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(MachineError, match=r"'loihi3'.*darwin3-like.*spinnaker2-like"):
        load_machine("loihi3")


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ("  clock_mhz: 500.0", "  clock_mhz: -3", "core.clock_mhz", "greater than 0"),
        ("  clock_mhz: 500.0", "  clock_mhz: fast", "core.clock_mhz", "valid number"),
        ("  clock_mhz: 500.0", "  clock_mhz: .nan", "core.clock_mhz", "finite"),
        ("  clock_mhz: 500.0", "  clock_ghz: 0.5", "core.clock_ghz", "unknown field"),
        ("  chips_x: 1 ", "  chips_x: 1.5 ", "board.chips_x", "integer"),
        ("  chips_x: 1 ", "  chips_x: 0 ", "board.chips_x", "greater than 0"),
        ("  topology: torus", "  topology: ring", "network.topology", "mesh"),
        ("  payload_bits: 32", "  payload_bits: 64", "network", "must not exceed"),
        ("  weight_bits: [2, 4, 8]", "  weight_bits: []", "core.weight_bits", "at least 1"),
    ],
)
def test_a_mistake_names_line_and_field(old: str, new: str, field: str, message: str) -> None:
    text = TEXT.replace(old, new)
    assert text != TEXT
    key = new.strip().split(":")[0] if "." in field else field
    with pytest.raises(MachineError, match=message) as caught:
        parse_machine(text, "x.yaml")
    assert re.search(rf"^x\.yaml:{line_of(text, key + ':')}: {re.escape(field)}: ", str(caught.value), re.M)


def test_several_mistakes_are_told_at_once() -> None:
    text = TEXT.replace("  clock_mhz: 500.0", "  clock_mhz: 0").replace("  chips_x: 1 ", "  chips_x: 0 ")
    with pytest.raises(MachineError) as caught:
        parse_machine(text, "x.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_field_names_the_section_it_belongs_to() -> None:
    text = "\n".join(line for line in TEXT.splitlines() if not line.startswith("  clock_mhz"))
    with pytest.raises(MachineError, match=rf"x.yaml:{line_of(text, 'core:')}: core.clock_mhz: required"):
        parse_machine(text, "x.yaml")


def test_a_key_given_twice_names_both_lines() -> None:
    text = TEXT.replace("  chips_y: 1 ", "  chips_x: 1\n  chips_y: 1 ")
    first = line_of(text, "chips_x:")
    message = rf"x.yaml:{first + 1}: board.chips_x: given twice, first on line {first}"
    with pytest.raises(MachineError, match=message):
        parse_machine(text, "x.yaml")


@pytest.mark.parametrize(
    "text", ["", "3", "- a\n- b", "a: [1, 2", "a: b: c", "{1: 2}: 3", "\x00", "name: !!python/none x"]
)
def test_what_is_no_description_at_all_is_one_error(text: str) -> None:
    with pytest.raises(MachineError, match=r"x.yaml"):
        parse_machine(text, "x.yaml")


@given(st.text(max_size=80))
def test_noise_is_a_machine_error_and_nothing_else(text: str) -> None:
    with pytest.raises(SdcError, match=r"x\.yaml"):  # eighty characters cannot describe a machine
        parse_machine(text, "x.yaml")


CORE_FIELDS = sorted(Machine.model_validate(yaml.safe_load(TEXT)).core.model_dump())


@given(st.sampled_from(CORE_FIELDS), st.integers(-9, 0))
def test_no_core_field_but_overheads_may_be_zero_or_less(field: str, value: int) -> None:
    data = yaml.safe_load(TEXT)
    data["core"][field] = value
    if field == "cycles_per_spike" and value == 0:
        assert parse_machine(yaml.safe_dump(data), "x.yaml").core.cycles_per_spike == 0
        return
    with pytest.raises(MachineError, match=rf"core\.{field}"):
        parse_machine(yaml.safe_dump(data), "x.yaml")


def test_clusters_and_topology_must_agree() -> None:
    with pytest.raises(MachineError, match="contradicts cores_per_router"):
        parse_machine(TEXT.replace("topology: torus", "topology: hierarchical"), "x.yaml")


def test_additions_take_the_narrowest_width_that_holds_the_weight() -> None:
    energy = load_machine("northpole-like").energy
    assert energy.synaptic_add(3) == energy.synaptic_add_pj[4]
    assert energy.synaptic_add(16) == 2 * energy.synaptic_add_pj[8]
    core = load_machine("spinnaker2-like").core
    assert core.stored_bits(4) == 8
    with pytest.raises(ValueError, match="17 bits do not fit"):
        core.stored_bits(17)


@pytest.mark.parametrize("name", shipped_machines())
def test_grid_coordinates_are_a_bijection(name: str) -> None:
    machine = load_machine(name)
    grid = Grid.of(machine)
    cores = np.arange(min(grid.cores, 5000))
    x, y = grid.xy(cores)
    back = (y * grid.width + x) * grid.cluster + cores % grid.cluster
    np.testing.assert_array_equal(back, cores)
    assert grid.cores == machine.board.cores
    assert len(np.unique(grid.chip(np.arange(grid.cores)))) == machine.board.chips


def test_a_torus_measures_the_short_way_round() -> None:
    grid = Grid.of(load_machine("generic"))
    assert grid.torus
    assert grid.distance(np.array([15, 8, 1]), np.array([0, 8, 15])).tolist() == [1, 16, 2]
    assert grid.label(grid.core(3, 2)) == "core 3,2"
    assert "outside" in grid.label(10**6)
