"""Timing of binaries: a case worked out by hand, conservation, contention, energy, traces."""

import json
from dataclasses import replace as changed
from itertools import pairwise

import numpy as np
import pytest
from helpers.neuro import small_machine
from helpers.spiking_llama import spiking_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import TargetError
from sdc.targets.neuro.codegen.module import compile_module
from sdc.targets.neuro.codegen.values import PlainPlacement
from sdc.targets.neuro.isa.assembler import assemble
from sdc.targets.neuro.isa.errors import ExecutionError
from sdc.targets.neuro.isa.program import HOST
from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.route import channel_dependencies, find_cycle
from sdc.targets.neuro.runner import DecoderRunner, Signature
from sdc.targets.neuro.simulate.functional import FunctionalSimulator
from sdc.targets.neuro.simulate.recording import Recorder, Recording
from sdc.targets.neuro.simulate.replay import replay
from sdc.targets.neuro.simulate.replay_energy import bill
from sdc.targets.neuro.simulate.replay_network import network_of
from sdc.targets.neuro.simulate.replay_trace import replay_events, write_replay
from sdc.targets.neuro.simulation import Simulation, simulate_decoder

ONE_LAYER = """
.core 0 "encoder"
.memory n 16
.route 0 tag 1 to 5
.code
recvw n[0x0], 4, 10, 1
loop 3
send n[0x0], 4, ternary, 0, 0
endl
halt
.core 5 "weights"
.memory n 32
.memory s 32
.route 0 tag 2 to host
.code
slot 0, s[0x0], 8, 8, 4, 8, n[0x10]
fill n[0x10], 0.0, 8
loop 3
accum 1, 0, ternary, 1
endl
sendw n[0x10], 8, 0, 0
halt
"""
COUNTS = np.array([3, -1, 0, 2], np.int32)


def one_layer() -> Recording:
    simulator = FunctionalSimulator(assemble(ONE_LAYER))
    simulator.observer = recorder = Recorder(simulator.program)
    simulator.put(0, 10, COUNTS)
    simulator.take(2)
    return recorder.finish(simulator.traffic)


def decoder(**options) -> DecoderRunner:
    compiled = compile_module(spiking_llama(**options), PlainPlacement(4096), "test")
    signature = Signature.of("decoder", 40, compiled)
    return DecoderRunner(compiled.program, compiled.external, signature)


@pytest.fixture(scope="module")
def tiny() -> Simulation:
    return simulate_decoder(decoder(layers=2), small_machine(), [3, 1], 2)


def test_one_layer_takes_what_the_hand_says() -> None:
    run = replay(one_layer(), small_machine())
    cycle, packet, head = 2.0, 2.0, 5 * 4.0 + 2.0  # ns; five hops and the way into the core
    spikes = [3, 2, 1]  # of 3, -1, 0, 2 in the steps of a ternary train
    first = (1 + 4 / 4) * cycle + cycle  # the input, loop
    asked = first + (1 + 4 / 4) * cycle  # the first step is searched for spikes
    arrived = asked + (spikes[0] + 1) * packet + head
    steps = sum((1 + n * (2 + 1)) * cycle + cycle for n in spikes)  # accum and endl; one row is one cycle
    output = (1 + 8 / 4) * cycle + (8 + 1) * packet
    assert run.makespan_ns == pytest.approx(arrived + steps + output) == 112.0
    # The second message waits for the port, the third for the second half of the output buffer.
    messages = [m for m in run.messages if m.kind == "spike"]
    assert [m.asked for m in messages] == [10.0, 16.0, 22.0]
    assert [m.left for m in messages] == [10.0, 18.0, 24.0]
    assert [m.arrived for m in messages] == [40.0, 46.0, 50.0]
    assert run.bound_ns == run.makespan_ns  # the receiver has the last word


def test_one_layer_costs_what_the_hand_says() -> None:
    machine = small_machine()
    paid = bill(replay(one_layer(), machine))
    packets, synops = (3 + 2 + 1) + 3, 6 * 8
    parts = paid.by_component()
    assert paid.count("synops") == synops
    assert paid.count("hops") == 5 * packets
    assert parts["synaptic"] == pytest.approx(synops * 1.35)
    assert parts["network"] == pytest.approx(packets * (5 * 4.8 + 1.2))
    assert parts["receive"] == pytest.approx(packets * 10.0)
    assert parts["send"] == pytest.approx((packets + 9) * 5.0)
    words = 4 + 3 * 4 + 8 + 8  # received, searched three times, cleared, sent
    assert parts["sram"] == pytest.approx(words * 4 * 1.25)
    assert parts["static"] == pytest.approx(500.0 * 112.0)
    assert paid.total_pj == pytest.approx(sum(parts.values())) == pytest.approx(paid.by_token().sum())


def test_a_small_buffer_holds_messages_back_and_loses_none() -> None:
    roomy = replay(one_layer(), small_machine())
    tight = replay(one_layer(), small_machine(core={"spike_buffer_packets": 4}))
    assert [m.buffer_stall for m in roomy.messages if m.kind == "spike"] == [0.0, 0.0, 0.0]
    late = [m for m in tight.messages if m.kind == "spike"][1]
    assert late.left == 60.0  # when the first step has been added
    assert late.buffer_stall == late.left - late.asked
    assert tight.makespan_ns > roomy.makespan_ns
    assert bill(tight).count("packets") == bill(roomy).count("packets")


def test_a_lost_packet_is_found() -> None:
    recording = one_layer()
    actions = {number: list(done) for number, done in recording.actions.items()}
    index = next(i for i, action in enumerate(actions[0]) if action.kind == "send")
    actions[0][index] = actions[0][index]._replace(packets=2)
    with pytest.raises(ExecutionError, match="a defect of the simulator"):
        replay(changed(recording, actions=actions), small_machine())


def test_a_missing_message_is_a_deadlock_that_names_the_core() -> None:
    recording = one_layer()
    actions = {number: list(done) for number, done in recording.actions.items()}
    actions[0] = actions[0][:-2]
    with pytest.raises(ExecutionError, match=r"DEADLOCK: .*core 5,0 at accum of weights"):
        replay(changed(recording, actions=actions), small_machine())


def test_a_machine_without_the_cores_is_refused() -> None:
    with pytest.raises(TargetError, match="uses core 5, generic has 4 cores"):
        replay(one_layer(), small_machine(board={"routers_x": 2, "routers_y": 2}))


def test_events_are_those_of_the_functional_simulator() -> None:
    runner = decoder(layers=1, coding="bitwise")
    done = simulate_decoder(runner, small_machine(), [1, 2, 3], 1)
    events = sum(
        (core.events for core in runner.machine.cores.values()), start=type(runner.machine.cores[0].events)()
    )
    traffic = runner.machine.traffic
    assert done.bill.count("synops") == events["synops"]
    spans = done.run.spans
    assert sum(s.action.work.spikes for s in spans) == events["spikes"]
    assert sum(s.action.packets for s in spans if s.action.kind == "send") == traffic.sent["spike"]
    words = sum(s.action.packets for s in spans if s.action.kind == "sendw") + 3  # the host's tokens
    assert words == traffic.sent["word"]
    assert sum(m.packets * len(m.tree.targets) for m in done.run.messages) == sum(traffic.delivered.values())
    hops = sum(m.packets * len(m.tree.links) for m in done.run.messages)
    assert done.bill.count("hops") == hops == pytest.approx(done.run.link_packets.sum())


@settings(max_examples=8)
@given(
    routers=st.integers(6, 12),
    topology=st.sampled_from(["mesh", "torus"]),
    buffer=st.integers(64, 4096),
    clock=st.floats(5.0, 1000.0),
)
def test_time_goes_forward_and_never_below_the_bound(tiny, routers, topology, buffer, clock) -> None:
    machine = small_machine(
        board={"routers_x": routers, "routers_y": routers},
        network={"topology": topology, "link_clock_mhz": clock},
        core={"spike_buffer_packets": buffer},
    )
    run = replay(tiny.run.recording, machine)
    assert run.makespan_ns >= run.bound_ns * (1 - 1e-9)
    assert (np.diff(run.token_ends) > 0).all()
    for number in {span.core for span in run.spans}:
        mine = [span for span in run.spans if span.core == number]
        assert all(a.end <= b.begin + 1e-6 for a, b in pairwise(mine))
        assert all(span.ready <= span.begin for span in mine)
    assert (run.link_busy <= run.makespan_ns + 1e-6).all()
    assert all(m.asked <= m.left <= m.arrived for m in run.messages)


def test_slow_links_stall() -> None:
    recording = simulate_decoder(decoder(layers=1), small_machine(), [1], 1).run.recording
    slow, quick = (replay(recording, small_machine(network={"link_clock_mhz": f})) for f in (5.0, 500.0))
    assert sum(m.link_stall for m in slow.messages) > sum(m.link_stall for m in quick.messages)
    assert slow.makespan_ns > 3 * quick.makespan_ns


def test_the_summary_adds_up(tiny: Simulation) -> None:
    facts = json.loads(json.dumps(tiny.summary()))
    assert facts["tokens"] == 3  # two of the prompt, one of two made was fed back
    assert len(tiny.tokens) == 2
    assert facts["energy_uj"] == pytest.approx(sum(facts["energy_uj_by_component"].values()))
    assert facts["energy_uj"] == pytest.approx(sum(row["energy_uj"] for row in facts["per_token"]))
    assert facts["makespan_us"] == pytest.approx(sum(row["us"] for row in facts["per_token"]))
    assert facts["synops"] == sum(row["synops"] for row in facts["per_op"])
    report = tiny.bill.report()
    assert set(report.by_layer()) == {-1, 0, 1}
    assert report.total_pj * 3 == pytest.approx(tiny.bill.total_pj)
    # Trains of every linear layer: 7 steps; of attention: on the busiest cores, those of the values, 31 for
    # each of two heads (keys meet the 15 of queries meanwhile).
    per_layer = 4 * 7 + 2 * 31
    assert facts["time_steps"] == 3 * (2 * per_layer + 7)


def test_the_trees_of_a_compiled_decoder_cannot_deadlock() -> None:
    program = decoder(layers=2).machine.program
    for topology, channels in (("mesh", 1), ("mesh", 2), ("torus", 2), ("torus", 4)):
        machine = small_machine(network={"topology": topology, "virtual_channels": channels})
        dependencies = channel_dependencies(network_of(program, machine).routes, Grid.of(machine))
        assert len(dependencies)
        assert not len(find_cycle(dependencies))


def test_the_trace_is_chrome_json_and_the_same_every_time(tiny, tmp_path) -> None:
    for name in ("a.json", "b.json"):
        write_replay(tiny.run, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    events = json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    assert events == json.loads(json.dumps(replay_events(tiny.run)))
    kinds = {e["cat"] for e in events if e["ph"] == "X"}
    assert kinds == {"core", "message", "link"}
    work = [e for e in events if e["ph"] == "X" and e["cat"] == "core"]
    assert len(work) == len(tiny.run.spans)
    messages = [e for e in events if e["ph"] == "X" and e["cat"] == "message"]
    assert len(messages) == sum(m.tree.source != HOST for m in tiny.run.messages)
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= named
    assert all(e["dur"] >= 0 for e in events if e["ph"] == "X")
