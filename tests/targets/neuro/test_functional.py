"""The functional simulator, instruction by instruction, and every exception of the instruction set."""

import numpy as np
import pytest

from sdc.ir.coding import expand, time_steps
from sdc.ir.ops.hadamard import reference as hadamard
from sdc.ir.ops.rotary import reference as rotary
from sdc.targets.neuro.codegen.linear import pack_rows
from sdc.targets.neuro.isa.assembler import assemble
from sdc.targets.neuro.isa.errors import ExecutionError
from sdc.targets.neuro.isa.table import INSTRUCTIONS
from sdc.targets.neuro.simulate.functional import HANDLERS, FunctionalSimulator

HEAD = ".core 1\n.memory n 4096\n.memory s 4096\n.route 0 tag 5 to host\n.route 1 tag 6 to 1\n"


def machine(code: str, head: str = HEAD, external=None) -> FunctionalSimulator:
    return FunctionalSimulator(assemble(f"{head}.code\n{code}\n"), external)


def evaluate(code: str, result: str, *inputs) -> np.ndarray:
    """Puts vectors to n[0x0], n[0x100], n[0x200] ... and takes n[0x800] (``result``: its length)."""
    receive = "\n".join(f"recvw n[{256 * i:#x}], {len(x)}, {10 + i}, 1" for i, x in enumerate(inputs))
    simulator = machine(f"{receive}\n{code}\nsendw n[0x800], {result}, 0, 0\nhalt")
    for i, x in enumerate(inputs):
        simulator.put(1, 10 + i, x)
    return simulator.take(5).view(np.float32)


def data(seed: int, count: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def test_every_instruction_can_be_executed() -> None:
    assert set(HANDLERS) == {spec.name for spec in INSTRUCTIONS}


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("vadd", lambda a, b: a + b),
        ("vsub", lambda a, b: a - b),
        ("vmul", lambda a, b: a * b),
        ("vdiv", lambda a, b: a / b),
        ("vadds", lambda a, b: a + b[0]),
        ("vsubs", lambda a, b: a - b[0]),
        ("vmuls", lambda a, b: a * b[0]),
        ("vdivs", lambda a, b: a / b[0]),
    ],
)
def test_binary_vector_instructions(name, function) -> None:
    a, b = data(1), data(2)
    assert (evaluate(f"{name} n[0x800], n[0x0], n[0x100], 200", "200", a, b) == function(a, b)).all()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("vexp", np.exp),
        ("vtanh", np.tanh),
        ("vsqrt", np.sqrt),
        ("vsilu", lambda x: x / (1 + np.exp(-x.astype(np.float64)))),
    ],
)
def test_unary_vector_instructions(name, function) -> None:
    x = np.abs(data(3)) if name == "vsqrt" else data(3)
    got = evaluate(f"{name} n[0x800], n[0x0], 200", "200", x)
    np.testing.assert_allclose(got, function(x), rtol=3e-7, atol=2e-7 if name == "vtanh" else 0)


def test_integers_convert_and_wrap() -> None:
    a = np.array([2**31 - 1, -5, 7], np.int32)
    assert evaluate("vcvt n[0x800], n[0x0], 3", "3", a).tolist() == [2.0**31, -5, 7]
    wrapped = evaluate("vaddi n[0x800], n[0x0], n[0x0], 3", "3", a).view(np.int32)
    assert wrapped.tolist() == [-2, -10, 14]


def lane_sum(x: np.ndarray) -> np.float32:
    """The order of summation that docs/isa.md defines, term by term."""
    lanes = [np.float32(0)] * 16
    for k, value in enumerate(x):
        lanes[k % 16] = lanes[k % 16] + value
    while len(lanes) > 1:
        lanes = [a + b for a, b in zip(lanes[::2], lanes[1::2], strict=True)]
    return lanes[0]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 64, 127, 576, 1000])
def test_sums_are_in_the_order_of_the_specification(count) -> None:
    x = data(count, count) * np.float32(1000)
    head = HEAD.replace("n 4096", "n 9000")
    simulator = machine(
        f"recvw n[0x0], {count}, 10, 1\nvsum n[0x800], n[0x0], {count}\nsendw n[0x800], 1, 0, 0\nhalt", head
    )
    simulator.put(1, 10, x)
    assert simulator.take(5).view(np.float32)[0] == lane_sum(x)


def test_norm_rotary_hadamard_and_maximum() -> None:
    x, gain = data(4, 64), data(5, 64)
    got = evaluate("rms n[0x800], n[0x0], n[0x100], 64, 1e-05", "64", x, gain)
    np.testing.assert_allclose(got, x / np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-5) * gain, rtol=1e-6)
    assert evaluate("vmax n[0x800], n[0x0], 64", "1", x)[0] == x.max()
    signs = np.sign(gain)
    got = evaluate("had n[0x0], n[0x100], 64, 4\ncopy n[0x800], n[0x0], 64", "64", x, signs)
    assert (got == hadamard(x, signs, block=16)).all()


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_turns_by_position(interleaved) -> None:
    x, angles = data(6, 48), data(7, 3 * 4).reshape(3, 4)
    tables = np.cos(angles).tobytes().hex() + np.sin(angles).tobytes().hex()
    code = f"""token:
recvw n[0x0], 48, 10, 1
pos n[0x100]
gather n[0x101], s[0x0], n[0x100], 4, 3
gather n[0x105], s[0x30], n[0x100], 4, 3
rot n[0x0], n[0x101], n[0x105], 4, 12, 4, {"inter" if interleaved else "split"}
sendw n[0x0], 48, 0, 0
next
jump token"""
    simulator = machine(code, HEAD + f".data s 0\n{tables}\n")
    for position in range(3):
        simulator.put(1, 10, x)
        got = simulator.take(5).view(np.float32).reshape(1, 1, 4, 12)
        heads = x.reshape(1, 1, 4, 12)
        assert (got == rotary(heads, np.cos(angles), np.sin(angles), position, interleaved=interleaved)).all()
    simulator.put(1, 10, x)
    simulator.reset()
    simulator.put(1, 10, x)
    assert (simulator.take(5).view(np.float32).reshape(4, 12)[:, 4 * 2 :] == x.reshape(4, 12)[:, 8:]).all()


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_train_adds_rows_step_by_step(coding, bits) -> None:
    rng = np.random.default_rng(bits)
    counts = rng.integers(-5, 6, 12).astype(np.int32)
    top = 1 << bits - 1
    weight = rng.integers(-top, top, (12, 7))
    packed = weight.astype("<i2").view(np.uint8) if bits == 16 else pack_rows(weight, bits)
    steps = time_steps(coding, 5)
    code = f"""recvw n[0x0], 12, 10, 1
slot 0, s[0x0], {packed.shape[1]}, 7, 4, {bits}, n[0x800]
loop {steps}
send n[0x0], 12, {coding}, 1, 0
accum 6, 0, {coding}, 1
endl
sendw n[0x800], 21, 0, 0
halt"""
    simulator = machine(code, HEAD + f".data s 0\n{packed.tobytes().hex()}\n")
    simulator.put(1, 10, counts)
    groups = np.stack([counts[g : g + 4] @ weight[g : g + 4] for g in (0, 4, 8)])
    assert (simulator.take(5).view(np.int32).reshape(3, 7) == groups).all()
    spikes = int(np.abs(expand(counts, coding, 5).astype(int)).sum())
    assert simulator.traffic.sent["spike"] == spikes
    assert simulator.statistics()[1]["synops"] == 7 * spikes
    assert simulator.traffic.sent["marker"] == steps + 2


def test_the_cache_grows_by_a_row_and_a_column() -> None:
    code = """token:
recvw n[0x0], 3, 10, 1
kvrow s[0x0], n[0x0], 3, 4
kvcol s[0x40], n[0x0], 3, 5
kvword s[0x80], n[0x2]
ldw n[0x100], s[0x0], 3
ldw n[0x103], s[0x40], 4
ldw n[0x108], s[0x80], keys(9)
sendw n[0x100], 10, 0, 0
next
jump token"""
    simulator = machine(code)
    for token in range(2):
        simulator.put(1, 10, np.array([1, -2, 3], np.int32) * (token + 1))
        words = simulator.take(5)
    cache = words.view(np.int8)
    assert cache[:8].tolist() == [1, -2, 3, 0, 2, -4, 6, 0]
    assert cache[12:27].reshape(3, 5)[:, :2].tolist() == [[1, 2], [-2, -4], [3, 6]]
    assert words[8:].tolist() == [3, 6]


def test_tables_and_external_memory() -> None:
    external = np.arange(40, dtype=np.float32).view(np.uint8)
    code = """stream s[0x0], 16, 96
recvw n[0x0], 1, 10, 1
gather n[0x10], s[0x0], n[0x0], 6, 4
sendw n[0x10], 6, 0, 0
halt"""
    simulator = machine(code, external=external)
    simulator.put(1, 10, np.array([2], np.int32))
    assert simulator.take(5).view(np.float32).tolist() == [16, 17, 18, 19, 20, 21]


def test_a_row_of_a_table_outside() -> None:
    external = np.arange(40, dtype=np.float32).view(np.uint8)
    code = "fetch s[0x0], 16, n[0x0], 12\nldw n[0x800], s[0x0], 3\nsendw n[0x800], 3, 0, 0\nhalt"
    simulator = machine(f"recvw n[0x0], 1, 10, 1\n{code}", external=external)
    simulator.put(1, 10, np.array([5], np.int32))
    assert simulator.take(5).view(np.float32).tolist() == [19, 20, 21]
    simulator.reset()
    simulator.put(1, 10, np.array([-1], np.int32))
    with pytest.raises(ExecutionError, match="RANGE: row -1 of a table"):
        simulator.run()


def test_group_zero_is_the_whole_vector() -> None:
    code = "theta n[0x100], n[0x0], 3, 0, 0.5\ncount n[0x800], n[0x0], n[0x100], 3, 0, 2, u"
    x = np.array([-1.0, 4.0, 3.1], np.float32)
    assert evaluate(code, "3", x).view(np.int32).tolist() == [0, 2, 2]


def test_base_registers_walk_through_memory() -> None:
    code = """base 2, 1
loop 3
vadd n[0x800+b1], n[0x0+b2], n[0x0], 1
adv 1, 1
adv 2, 2
endl"""
    assert evaluate(code, "3", np.arange(6, dtype=np.float32) + 1).tolist() == [3, 5, 7]


def test_barriers_hold_until_all_have_come() -> None:
    text = """.barrier 1, 2
.core 1
.memory n 8
.route 0 tag 5 to host
.code
recvw n[0x0], 1, 10, 1
barrier 0
sendw n[0x0], 1, 0, 0
halt
.core 2
.memory n 8
.route 0 tag 6 to host
.code
barrier 0
sendw n[0x0], 1, 0, 0
halt
"""
    simulator = FunctionalSimulator(assemble(text))
    with pytest.raises(ExecutionError, match=r"DEADLOCK: nothing for the host under tag 6; 2 cores wait"):
        simulator.take(6)
    simulator.put(1, 10, np.array([1], np.int32))
    assert simulator.take(6).tolist() == [0]
    assert simulator.take(5).tolist() == [1]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "vadd n[0xfff], n[0x0], n[0x0], 2",
            r"core 1, instruction 0: ADDRESS: n\[0xfff\] and 2 words, of 4096",
        ),
        (";; layers.3.up\nnop\nldw n[0x0], s[0xffc], 2", r"instruction 1: ADDRESS: s.*\(layers.3.up\)"),
        ("base 1, -1\ncopy n[0x0+b1], n[0x0], 1", r"instruction 1: ADDRESS: n\[-0x1\]"),
        ("nop", "instruction 1: ADDRESS: the program has no more instructions"),
        ("stream s[0x0], 0, 4", "ADDRESS: external memory has 0 bytes"),
        ("loop 0", "LOOP: 0 iterations at level 1"),
        ("loop 2\n" * 9, "instruction 8: LOOP: 2 iterations at level 9"),
        ("endl", "LOOP: this instruction needs a loop"),
        ("send n[0x0], 1, ternary, 0, 0", "LOOP: this instruction needs a loop"),
        ("base 0, 1", "BASE: register 0"),
        ("fill n[0x0], 1.0, 1\ngather n[0x1], s[0x0], n[0x0], 1, 9", "RANGE: row 1065353216 of a table of 9"),
        ("theta n[0x0], n[0x8], 8, 3, 1.0", "RANGE: groups of 3 do not divide 8 channels"),
        ("loop 1\naccum 6, 2, ternary, 1", "instruction 1: RANGE: synapse slot 2 is not set"),
        ("slot 0, s[0x0], 1, 1, 0, 8, n[0x0]", "RANGE: a group has at least one channel"),
        ("kvcol s[0x0], n[0x0], 1, 0", "RANGE: token 0 in a cache of 0"),
        ("rot n[0x0], n[0x0], n[0x0], 1, 3, 2, split", "RANGE: 2 pairs in a head of 3"),
        ("barrier 0", "RANGE: the core is not in barrier group 0"),
        ("sendw n[0x0], 1, 2, 0", "ROUTE: route 2; the core has 2"),
        (
            "sendw n[0x0], 2, 1, 0\nrecvw n[0x0], 1, 6, 1",
            "MESSAGE: tag 6: word 1 of 1 came twice, is missing",
        ),
        ("sendw n[0x0], 2, 1, 0\nrecvw n[0x0], 3, 6, 1", "MESSAGE: tag 6: word 2 of 3"),
        ("sendw n[0x0], 2, 1, 1\nrecvw n[0x0], 2, 6, 1", "MESSAGE: tag 6: word 0 of 2"),
        (
            "loop 1\nsend n[0x0], 1, ternary, 1, 0\nrecvw n[0x0], 1, 6, 1",
            "MESSAGE: tag 6: expected word packets",
        ),
        (
            "sendw n[0x0], 2, 1, 1\nrecvw n[0x0], 2, 6, 0",
            "MESSAGE: 1 cores send under tag 6, the instruction expects 0",
        ),
    ],
)
def test_exceptions_name_core_and_instruction(code, message) -> None:
    with pytest.raises(ExecutionError, match=message):
        machine(code).run()


def test_programs_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ExecutionError, match=r"ADDRESS: data at s\[0xfff\] exceed the memory"):
        machine("halt", HEAD + ".data s 0xfff\n0102\n")
    lost = machine("sendw n[0x0], 1, 0, 0\nhalt", HEAD.replace("to host", "to 9"))
    with pytest.raises(ExecutionError, match="ROUTE: tag 5 goes to core 9, which has no program"):
        lost.run()


def test_a_lost_or_doubled_packet_is_noticed() -> None:
    simulator = machine("sendw n[0x0], 4, 1, 0\nrecvw n[0x0], 4, 7, 1")
    simulator.run()
    simulator.cores[1].inbox.queues[6][1].pop()
    with pytest.raises(
        ExecutionError, match="word packets are not conserved: 4 fanned out, 4 delivered, 0 taken, 0"
    ):
        simulator.run()
