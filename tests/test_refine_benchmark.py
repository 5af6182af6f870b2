"""The plan of benchmarks/refine.py, whose stages run for hours: their order, data and seeds."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REPEATED = ["rollouts", "world_model", "heads", "refine"]


@pytest.fixture
def benchmark(monkeypatch):
    """A module of the benchmark by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module


@pytest.fixture
def run(benchmark, tmp_path):
    """A run of the size `cpu`, in a round of one's choice."""

    def in_round(number, ablation=False):
        run = benchmark("refine_layout").Run("cpu", tmp_path, [0, 1], 2, ablation, 0, 1, 3)
        run.round = number
        return run

    return in_round


def test_every_round_has_its_stages_and_the_policies_are_evaluated_once(benchmark):
    refine = benchmark("refine")
    order = list(refine.in_order(list(refine.STAGES), 2))
    assert [name for _, name in order] == [
        *("record", "autoencoder", "clone"),
        *(REPEATED * 2),
        *("evaluate", "simulator", "compare"),
    ]
    assert [number for number, _ in order] == [1] * 7 + [2] * 7


def test_some_stages_alone(benchmark):
    order = benchmark("refine").in_order(["evaluate", "refine"], 3)
    assert list(order) == [(1, "refine"), (2, "refine"), (3, "refine"), (3, "evaluate")]


def test_rounds_record_episodes_of_their_own(benchmark, run, monkeypatch):
    refine = benchmark("refine")
    recorded = {}

    def note(run, name, sources, seed):
        episodes = sum(sum(source["episodes"].values()) for source in sources)
        # every task may take as many seeds as the whole recording has episodes
        recorded[name] = range(seed, seed + episodes * len(run.recipe["env"]))

    monkeypatch.setattr(refine, "record_into", note)
    refine.record(run(1))
    for number in (1, 2, 3):
        refine.record_rollouts(run(number))
    taken = [*recorded.values(), range(refine.EVALUATION_SEED, refine.EVALUATION_SEED + 10000)]
    assert len(taken) == 6
    assert sum(map(len, taken)) == len(set().union(*taken))


def test_a_further_round_begins_with_what_became_of_the_clones(run):
    assert {noise for *_, noises in run(1).rolled_out() for noise in noises} == {0.0, 0.3}
    folder = run(3).out / "2_demonstrations" / "seed_0" / "after_2"
    rolled_out = [folder for _, folder, _ in run(3).rolled_out()]
    assert rolled_out[:2] == [folder / "snapshots" / "000010", folder]


def test_clones_are_evaluated_as_they_were_what_they_are_halfway_and_refined(run):
    folder = run(3).out / "2_demonstrations" / "seed_0"
    evaluated = [folder for folder, *_ in run(3).evaluated()]
    assert evaluated[:3] == [
        folder / "before",
        folder / "after_3" / "snapshots" / "000015",
        folder / "after_3",
    ]


def test_clones_are_refined_in_the_newest_world_model(benchmark, run, monkeypatch):
    refine = benchmark("refine")
    refined = []
    monkeypatch.setattr(refine, "ppo", lambda run, folder, *_: refined.append((run.round, folder)))
    for number in (1, 2):
        run(1).world_model_of(number).mkdir(parents=True)
    for number in (1, 2):
        refine.refine(run(number))
    assert [number for number, _ in refined] == [2, 2]
    assert len({folder for _, folder in refined}) == 2


def test_only_the_last_round_looks_at_reality_on_the_way(benchmark, run, monkeypatch):
    refine = benchmark("refine")
    callbacks = {}

    def note(run, folder, name, seed, environment, options, given, iterations):
        callbacks[run.round] = [one["class_path"].rpartition(".")[2] for one in given]

    monkeypatch.setattr(refine, "ppo", note)
    for number in (1, 2, 3):
        refine.refine(run(number))
    assert callbacks[1] == callbacks[2] == ["FrozenFolder", "Gate", "Snapshots"]
    assert callbacks[3] == ["FrozenFolder", "Gate", "ExploitationCurve"]


def test_the_last_round_has_no_anchor_and_an_ablation_tries_everything_else(run):
    assert [run(number).ppo["anchor_weight"] for number in (1, 2, 3, 4)] == [0.05, 0.05, 0, 0]
    assert set(run(3, ablation=True).ablations) == {"both", "no_penalty", "neither"}
    assert run(2, ablation=True).ablations == run(3).ablations == {}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_batch_is_shared_out_in_full(run, number):
    *trained_on, validation = run(number).datasets(rollouts=True)
    assert sum(source["weight"] for source in trained_on) == pytest.approx(1)
    assert len(trained_on) == number + 1
    assert validation["split"] is None


def test_a_curve_that_was_cut_off_is_measured(benchmark, run, monkeypatch):
    refine = benchmark("refine")
    fitted = []
    monkeypatch.setattr(refine, "fit", lambda folder, *_: fitted.append(folder))
    chosen = run(3)
    for folder, _ in chosen.started():
        (folder / "after_3" / "policy").mkdir(parents=True)
    refine.refine(chosen)
    assert len(fitted) == 2
    for folder in fitted:
        (folder / "comparison.json").touch()
    refine.refine(chosen)
    assert len(fitted) == 2


def test_the_gate_replays_failures_of_every_round(benchmark, run, monkeypatch):
    refine = benchmark("refine")
    gates = []
    monkeypatch.setattr(refine, "ppo", lambda *words: gates.append(words[6][1]["init_args"]))
    refine.refine(run(3))
    names = [Path(path).name for path in gates[0]["failures"]]
    assert names == ["rollouts_3", "rollouts_2", "rollouts"]


def test_a_folder_belongs_to_one_size(benchmark, tmp_path):
    keep_apart = benchmark("public_commands").keep_apart
    keep_apart(tmp_path / "new", {"size": "toy"})
    keep_apart(tmp_path / "new", {"size": "toy"})
    with pytest.raises(SystemExit, match="is of --size toy"):
        keep_apart(tmp_path / "new", {"size": "cpu"})


def test_the_minutes_of_a_stopped_stage_count(benchmark, run, monkeypatch, tmp_path):
    refine = benchmark("refine")

    def stopped(run):
        raise KeyboardInterrupt

    monkeypatch.setitem(refine.STAGES, "record", stopped)
    words = ["refine.py", "--out", str(tmp_path), "--only", "record"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(KeyboardInterrupt):
        refine.main()
    assert json.loads((tmp_path / "times.json").read_text())["record"] >= 0


def test_policies_that_all_fail_are_reported_too(benchmark):
    each = [
        {"seed": 1, "task": "drawer", "success": False},
        {"seed": 2, "task": "window", "success": False},
    ]
    played = {"real": {"each": each}, "imagined": {"each": each}}
    results = benchmark("refine_results")
    figures = results.figures([played], [played])
    unknown = {"policies": 2, "spearman": {"value": None, "interval": None}}
    result = figures | {
        "tasks": {"drawer": results.figures([played], [played], "drawer")},
        "by_seed": {"0": figures},
        "ablation": {},
        "imagined_against_real": unknown,
        "snapshots_against_real": unknown,
        "exploitation": [],
        "simulator": [],
        "imagined_steps_per_second": 1.0,
        "wall_minutes": 1.0,
        "wall_minutes_by_stage": {},
    }
    assert "Spearman - over 2 policies" in results.table(result)
    assert "after: 100% of the episodes end alike" in results.table(result)
    assert (figures["real_success_after"], figures["episodes"]) == (0, 2)


def test_intervals_are_wider_where_policies_share_their_starts(benchmark):
    def played(first, successes):
        numbered = enumerate(successes, first)
        each = [{"seed": n, "task": "drawer", "success": success} for n, success in numbered]
        return {"real": {"each": each}, "imagined": {"each": each}}

    figures = benchmark("refine_results").figures
    some = [True] * 6 + [False] * 4
    before = [played(0, some), played(0, some)]
    shared = figures(before, before)
    apart = [played(0, some), played(100, some)]
    own = figures(apart, apart)
    assert shared["real_success_after"] == own["real_success_after"] == 0.6
    assert shared["real_interval_after"] == pytest.approx((0.3127, 0.8318), abs=1e-4)  # 6 of 10
    assert own["real_interval_after"] == pytest.approx((0.3866, 0.7812), abs=1e-4)  # 12 of 20


def test_policies_of_an_ablation_are_compared_too_if_they_played_the_same(
    benchmark, run, monkeypatch
):
    refine = benchmark("refine")
    compared = []
    monkeypatch.setattr(refine, "python", lambda *words: compared.append(json.loads(words[2])))
    chosen = run(3, ablation=True)
    refine.compare(chosen)
    assert len(compared[0]) == 2 * (3 + 3)
    chosen.size = replace(chosen.size, ablation_episodes=1)
    refine.compare(chosen)
    assert len(compared[2]) == 2 * 3
