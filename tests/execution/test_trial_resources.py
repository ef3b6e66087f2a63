"""What trials ask for, by width and over several nodes, and which pack is handed out next."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.config.compose.compose import compose_file, resolved_yaml
from hptransfer.config.compose.external import TrialResources
from hptransfer.config.external import ExternalTrial
from hptransfer.errors import UserError
from hptransfer.execution import run_packs
from hptransfer.execution.pack_sizes import Trials
from hptransfer.execution.resources import Resources, no_place, places, resources_of_pack
from hptransfer.execution.room import Room, WaitingPacks
from hptransfer.execution.work import PackTask
from hptransfer.results.trial_result import TrialResult
from tests.support.executors import RUNTIME, cheap

SWEEP = """\
train: {command: 'python train.py {width} {lr}'}
sweep: {widths: [64, 128], target: {width: 512}}
search: {lr: {low: -8, high: -5}}
"""


def _composed(folder: Path, text: str, *words: str):
    path = folder / "mine.yaml"
    path.write_text(SWEEP + text)
    return compose_file(path, words)


def _nodes(*resources: dict[str, float]) -> list[dict]:
    return [{"Alive": True, "Resources": each} for each in resources]


def _index(task: PackTask | None) -> int:
    assert task is not None
    return task.index


class TestRequests:
    def test_a_width_asks_for_what_its_entry_says_and_else_for_the_executors(self, tmp_path):
        text = "executor: {gpus: 1, memory_gib: 2}\nresources: {128: {gpus: 4, nodes: 2}}\n"
        composed = _composed(tmp_path, text, "resources.512.cpus=3")
        base = composed.base
        assert isinstance(base, ExternalTrial)
        asked = {
            width: resources_of_pack(
                composed.runtime,
                composed.executor,
                composed.resources,
                (base.with_width(width),),
            )
            for width in (64, 128, 512)
        }
        assert asked[64] == Resources(1, 1, 2)
        assert asked[128] == Resources(1, 4, 2, nodes=2)
        assert asked[512] == Resources(3, 1, 2)

    def test_what_a_sweep_asks_for_is_read_back_from_its_folder(self, tmp_path):
        text = "executor: {nodes: 3, placement: pack}\nresources: {128: {gpus: 4}}\n"
        composed = _composed(tmp_path, text)
        path = tmp_path / "written.yaml"
        path.write_text(resolved_yaml(composed, name="mine"))
        again = compose_file(path)
        assert again.resources == {128: TrialResources(gpus=4.0)}
        assert (again.executor.nodes, again.executor.placement) == (3, "pack")

    def test_packed_nodes_are_one_machine_with_as_much_as_all_of_them(self):
        executor = ExecutorConfig(cpus=2.0, gpus=4.0, nodes=2, placement="pack")
        trial = compose_file(None).trial
        request = resources_of_pack(RUNTIME, executor, {}, (trial,))
        assert request.bundle == {"CPU": 4.0, "GPU": 8.0}
        assert request.machines == 1
        spread = dataclasses.replace(executor, placement="spread")
        request = resources_of_pack(RUNTIME, spread, {}, (trial,))
        assert request.bundle == {"CPU": 2.0, "GPU": 4.0}
        assert request.machines == 2

    @pytest.mark.parametrize(
        ("gpus", "asked", "count"),
        [
            ((8, 8), Resources(1, 8, nodes=2), 1),
            ((8, 8), Resources(1, 4, nodes=2), 2),
            ((8, 8), Resources(1, 4, nodes=3), 0),
            ((8, 4), Resources(1, 8, nodes=2), 0),
            ((16, 4, 4), Resources(1, 4, nodes=2), 2),  # the large node serves each pack once
            ((8, 8), Resources(1, 4, nodes=2, packed=True), 2),
            ((4, 4), Resources(1, 4, nodes=2, packed=True), 0),
        ],
    )
    def test_packs_that_fit_on_several_nodes_are_counted(self, gpus, asked, count):
        assert places(_nodes(*({"CPU": 16.0, "GPU": float(n)} for n in gpus)), asked) == count

    def test_a_request_that_no_two_nodes_meet_is_told_with_what_there_is(self):
        nodes = _nodes({"CPU": 8.0, "GPU": 8.0}, {"CPU": 8.0, "GPU": 2.0})
        sentence = str(no_place(nodes, Resources(1, 8, nodes=2)))
        assert "must fit on 2 nodes, but it asks for 1 CPUs and 8 GPUs on each" in sentence
        assert "8 CPUs and 8 GPUs; 8 CPUs and 2 GPUs" in sentence


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("resources: {128: {gpus: 4}}", ["executor=local"], r"`resources` has no effect with"),
        ("executor: {name: local, nodes: 2}", [], r"`executor\.nodes` has no effect with"),
        ("", ["executor=local", "executor.nodes=2"], r"`executor\.nodes` has no effect with"),
        ("", ["executor.nodes=0"], r"`executor\.nodes` must be positive"),
        ("", ["executor.placement=near"], r"`executor\.placement` must be spread or pack"),
        ("resources: {128: {gpus: 2.5}}", [], r"`resources\.128\.gpus` must be at most 1 or a wh"),
        ("resources: {128: {cpus: 0}}", [], r"`resources\.128\.cpus` must be positive"),
        ("resources: {128: {nodes: 0}}", [], r"`resources\.128\.nodes` must be positive"),
        ("resources: {wide: {gpus: 1}}", [], r"`resources` gives resources by width, but got"),
    ],
)
def test_resources_that_cannot_be_asked_for_are_refused(tmp_path, text, words, sentence):
    with pytest.raises(UserError, match=sentence):
        _composed(tmp_path, text, *words)


def test_a_model_of_hptransfer_takes_one_node():
    with pytest.raises(UserError, match=r"`executor\.nodes` is for trials of your own trainer"):
        compose_file(None, ["executor.nodes=2"])


ONE, FOUR, EIGHT = Resources(1, 1), Resources(1, 4), Resources(1, 8)
TWO_NODES = Resources(1, 8, nodes=2)


def _tasks(tiny_trial, *requests: Resources) -> list[PackTask]:
    return [
        PackTask(index, (index,), (tiny_trial(seed=index),), RuntimeConfig(), request=request)
        for index, request in enumerate(requests)
    ]


def _offers(*gpus: int) -> dict[str, dict[str, float]]:
    return {f"node{n}": {"CPU": 64.0, "GPU": float(count)} for n, count in enumerate(gpus)}


def _waiting(tasks: Sequence[PackTask]) -> WaitingPacks:
    waiting = WaitingPacks()
    for task in tasks:
        waiting.put(task)
    return waiting


class _Simulation:
    """Packs on nodes that are chosen at random among those with room, as Ray might choose."""

    def __init__(self, tasks: Sequence[PackTask], offers, rng: random.Random) -> None:
        self.room, self.waiting, self.offers, self.rng = Room(), _waiting(tasks), offers, rng
        self.on_their_way: list[PackTask] = []
        self.running: dict[int, tuple[PackTask, list[str]]] = {}
        self.handed_out: list[int] = []
        self.most = 0  # packs that ran at a time

    def run(self) -> None:
        while self.waiting.first_of_each_kind() or self.on_their_way or self.running:
            self._hand_out()
            self._place()
            self.most = max(self.most, len(self.running))
            assert self.running, "packs wait although nothing runs"
            index = self.rng.choice(list(self.running))
            del self.running[index]
            self.room.ended(index)

    def _hand_out(self) -> None:
        while task := self.room.next(self.waiting.first_of_each_kind(), self.offers):
            self.waiting.take(task)
            first = min(self.waiting.first_of_each_kind(), default=task)
            if first < task:
                taken = [*self.on_their_way, *(each for each, _ in self.running.values())]
                assert any(each < first for each in taken), "a pack was overtaken for nothing"
            self.room.hand_out(task)
            self.on_their_way.append(task)
            self.handed_out.append(task.index)
            if self.rng.random() < 0.5:
                self._place()

    def _place(self) -> None:
        for task in self.rng.sample(self.on_their_way, len(self.on_their_way)):
            fitting = [node for node in self.offers if self._free(node) >= task.request.gpus]
            if len(fitting) >= task.request.machines:
                nodes = self.rng.sample(fitting, task.request.machines)
                self.running[task.index] = (task, nodes)
                self.on_their_way.remove(task)
                self.room.started(task.index, nodes)

    def _free(self, node: str) -> float:
        used = sum(task.request.gpus for task, on in self.running.values() if node in on)
        return self.offers[node]["GPU"] - used


class TestRoom:
    @pytest.mark.parametrize("seed", range(60))
    def test_every_pack_runs_and_none_is_overtaken_for_nothing(self, tiny_trial, seed: int):
        rng = random.Random(seed)
        kinds = rng.sample([ONE, FOUR, EIGHT, TWO_NODES, Resources(1, 4, nodes=3)], 3)
        tasks = _tasks(tiny_trial, *(rng.choice(kinds) for _ in range(24)))
        simulation = _Simulation(tasks, _offers(8, 8, 8), rng)
        simulation.run()
        assert sorted(simulation.handed_out) == list(range(24))

    def test_a_node_that_the_first_packs_cannot_use_is_not_left_idle(self, tiny_trial):
        tasks = _tasks(tiny_trial, TWO_NODES, TWO_NODES, *[ONE] * 9)
        room, waiting, offers = Room(), _waiting(tasks), _offers(8, 8, 8)
        on = {0: ["node0", "node1"], **{index: ["node2"] for index in range(2, 10)}}
        for index, nodes in on.items():
            task = room.next(waiting.first_of_each_kind(), offers)
            assert task is not None
            assert task.index == index
            room.hand_out(waiting.take(task))
            assert room.next(waiting.first_of_each_kind(), offers) is None, "its node is unknown"
            room.started(index, nodes)
        assert room.next(waiting.first_of_each_kind(), offers) is None
        room.ended(5)  # a small one may follow, since the large one can have the other two nodes
        assert _index(room.next(waiting.first_of_each_kind(), offers)) == 10
        room.ended(0)
        assert _index(room.next(waiting.first_of_each_kind(), offers)) == 1

    def test_a_large_pack_does_not_starve_behind_small_ones(self, tiny_trial):
        tasks = _tasks(tiny_trial, FOUR, FOUR, EIGHT, *[FOUR] * 4)
        room, waiting, offers = Room(), _waiting(tasks), _offers(8)
        for index in (0, 1):
            task = room.next(waiting.first_of_each_kind(), offers)
            assert task is not None
            room.hand_out(waiting.take(task))
            room.started(index, ["node0"])
        for index in (0, 1):
            assert room.next(waiting.first_of_each_kind(), offers) is None
            room.ended(index)
        assert _index(room.next(waiting.first_of_each_kind(), offers)) == 2

    def test_packs_that_no_node_fits_hold_nothing_up(self, tiny_trial):
        tasks = _tasks(tiny_trial, TWO_NODES, EIGHT)
        room, waiting = Room(), _waiting(tasks)
        assert _index(room.next(waiting.first_of_each_kind(), _offers(8, 4))) == 1
        assert _index(room.next(waiting.first_of_each_kind(), _offers(8, 8))) == 0
        assert room.next(waiting.first_of_each_kind(), {}) is None

    def test_a_pack_whose_node_vanished_before_it_started_holds_nothing_up(self, tiny_trial):
        tasks = _tasks(tiny_trial, EIGHT, FOUR)
        room, waiting = Room(), _waiting(tasks)
        room.hand_out(waiting.take(tasks[0]))
        assert room.next(waiting.first_of_each_kind(), _offers(8, 4)) is None
        assert _index(room.next(waiting.first_of_each_kind(), _offers(4))) == 1

    def test_a_lost_pack_comes_before_all_later_ones(self, tiny_trial):
        tasks = _tasks(tiny_trial, FOUR, FOUR, FOUR)
        waiting = _waiting(tasks[1:])
        waiting.put(tasks[0])
        assert waiting.take(waiting.first_of_each_kind()[0]).index == 0


@pytest.mark.cluster
def test_a_later_round_whose_request_no_node_meets_is_refused(running_ray, tiny_trial):
    finished: list[int] = []

    def on_results(index: int, results: list[TrialResult]) -> list[Trials]:
        finished.append(index)
        return [(tiny_trial(width=32),)]

    with pytest.raises(UserError, match="must fit on one node, but it asks for 64 CPUs"):
        run_packs(
            [(tiny_trial(width=16),)],
            RUNTIME,
            running_ray,
            on_results=on_results,
            run_pack=cheap,
            resources={32: TrialResources(cpus=64.0)},
        )
    assert finished == [0]
