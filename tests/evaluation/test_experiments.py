"""Experiments on records made by hand: which arms they have, and what their tables come to."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from synthetic import Synthetic, everything, output, plan, record, task

from leapgen.evaluation import paper
from leapgen.evaluation.experiments import EXPERIMENTS, experiment
from leapgen.evaluation.experiments.beginnings import beginnings
from leapgen.evaluation.experiments.difficulty import level
from leapgen.evaluation.experiments.measures import Measured, pass_at_1
from leapgen.evaluation.experiments.output import beside, result_of
from leapgen.evaluation.units import Unit


def row(table, key):
    return next(row for row in table.rows if row.key == key)


def means(table, key):
    """Values of a row in the units of its columns."""
    return {name: round(table.column(name).scale * value.mean, 6) for name, value in row(table, key).values.items()}


# -- measures ---------------------------------------------------------------------------------------------------------


def test_a_problems_groups_are_averaged_before_its_problems():
    """Would catch: a problem with more groups weighing more."""
    of = Measured([record("a", 0, "++++"), record("a", 0, "----", group=1), record("a", 1, "++++")])
    assert of.by_problem("a", pass_at_1) == {"0": 0.5, "1": 1.0}
    assert of.mean("a", pass_at_1).mean == 0.75


def test_differences_are_over_problems_that_both_arms_have():
    """Would catch: an arm that ran on ten problems being compared with a base on all of them."""
    of = Measured([record("base", 0, "----"), record("base", 1, "++--"), record("a", 1, "+++-")])
    assert of.difference("a", "base", pass_at_1).mean == 0.25
    assert of.difference("a", "other", pass_at_1) is None


def test_a_ratio_is_of_sums():
    """Would catch: a mean of ratios, which one short problem can turn."""
    of = Measured([record("base", 0, "+", aha=1), record("base", 1, "+", aha=9), record("a", 0, "+", aha=2),
                   record("a", 1, "+", aha=6)])
    assert of.ratio("a", "base", lambda r: r.paths[0].aha).mean == pytest.approx(-0.2)


def test_a_unit_without_a_run_is_not_counted_as_wrong():
    """Would catch: problems without a beginning pulling the trap's mean to 0."""
    of = Measured([record("a", 0, "++"), record("a", 1, "")])
    assert of.by_problem("a", pass_at_1) == {"0": 1.0}


def test_the_spread_is_between_groups():
    of = Measured([record("a", 0, "++"), record("a", 1, "++"), record("a", 0, "--", group=1), record("a", 1, "++", group=1)])
    assert of.spread("a", pass_at_1) == pytest.approx(0.5 / 2 ** 0.5)
    assert Measured([record("a", 0, "++")]).spread("a", pass_at_1) is None


# -- beginnings -------------------------------------------------------------------------------------------------------


def mixed_study(problems=3):
    """Problem 0 has right and wrong answers, 1 only right, 2 only wrong ones; a path's tokens say whose they are."""
    rights = {0: "+-+-", 1: "++++", 2: "----"}
    study = Synthetic(task(problems))
    for problem in range(problems):
        letters = rights[problem % 3]
        study.made.append(record("source", problem, letters, own=20, seed=100 + problem))
        study.outputs[Unit("source", str(problem), 0)] = output([[problem * 10 + i] * 20 for i in range(len(letters))])
    return study


def prepared(name, arm, study, problem, **options):
    chosen = experiment(name)
    made = plan(chosen, len(study.problems), n=4, **options)
    one = next(one for one in chosen.arms(made) if one.name == arm)
    return one.prepare(study, study.problems[problem], 0)


def test_a_bad_beginning_is_the_start_of_a_wrong_answer():
    """Would catch: beginnings of right answers, or of another length."""
    begun = prepared("trap", "bad, alone", mixed_study(), 0)
    assert begun["beginning"] in ([1] * 3, [3] * 3)  # 15% of 20 tokens
    assert prepared("trap", "good, alone", mixed_study(), 0, beginnings="both")["beginning"] in ([0] * 3, [2] * 3)


def test_the_arms_of_a_beginning_go_on_from_the_same_one():
    """Would catch: alone and with peers being compared on different beginnings."""
    assert prepared("trap", "bad, alone", mixed_study(), 0) == prepared("trap", "bad, with peers", mixed_study(), 0)


def test_continuations_have_a_seed_of_their_own():
    """Would catch: with the source's seed, the path at the place of the wrong one repeats its answer token by token."""
    study = mixed_study()
    for arm in ("free, alone", "bad, alone"):
        assert prepared("trap", arm, study, 0)["seed"] not in {one.seed for one in study.records()}


def test_problems_with_one_kind_of_answer_have_no_trap():
    """Would catch: gaps over problems where no beginning could make a difference."""
    assert prepared("trap", "bad, alone", mixed_study(), 1) is None
    assert prepared("trap", "free, alone", mixed_study(), 2) is None


def test_answers_within_a_beginning_are_not_gone_on_with():
    """Would catch: a beginning that is the whole answer."""
    study = mixed_study(1)
    study.made[0].paths[1].tokens["own"] = study.made[0].paths[3].tokens["own"] = 2
    assert prepared("trap", "bad, alone", study, 0) is None


def test_as_many_problems_are_drawn_as_asked_for():
    study = Synthetic(task(12))
    for problem in range(12):
        study.made.append(record("source", problem, "+-", own=20, seed=problem))
        study.outputs[Unit("source", str(problem), 0)] = output([[1] * 20, [2] * 20])
    made = plan(experiment("trap"), 12, n=2, answers=5)
    drawn = [one.id for one in study.problems if beginnings(study, one, 0, made) is not None]
    assert len(drawn) == 5
    assert drawn == [one.id for one in study.problems if beginnings(study, one, 0, made) is not None]


def test_tolerance_mixes_good_and_bad_beginnings_by_path():
    """Would catch: one beginning for all paths, or another number of good ones."""
    study, good, bad = mixed_study(), ([0], [2]), ([1], [3])
    for number in (0, 1, 2):
        begun = prepared("tolerance", f"good-{number}", study, 0, fraction=0.05)["beginning"]
        assert [tokens in good for tokens in begun] == [i < number for i in range(4)]
        assert all(tokens in (*good, *bad) for tokens in begun)
    assert all(tokens in good for tokens in prepared("tolerance", "alone-4", study, 0, fraction=0.05)["beginning"])
    used = prepared("tolerance", "alone-0", study, 0, fraction=0.05)["beginning"]
    assert sorted(map(tuple, used)) == [(1,), (1,), (3,), (3,)]  # each as often as the other


def test_the_gap_is_from_free_paths_without_peers():
    """Would catch: the gap of paths with peers taken from a base that peers lifted."""
    study = Synthetic(task(1), [record("free, alone", 0, "+++-"), record("free, with peers", 0, "++++"),
                                record("bad, alone", 0, "+---"), record("bad, with peers", 0, "++--")])
    table = experiment("trap").summarize(study, plan(experiment("trap")))
    assert means(table, "bad, alone")["gap"] == 50
    assert means(table, "bad, with peers")["gap"] == 25
    assert means(table, "bad, with peers")["gap to its like"] == 50
    assert "gap" not in row(table, "free, with peers").values


# -- difficulty -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "name"), [(32, "very easy"), (31, "easy"), (25, "easy"), (24, "medium"), (9, "medium"),
                                             (8, "hard"), (1, "hard"), (0, "very hard")])
def test_levels_are_the_papers(right, name):
    assert level(right / 32) == name


def test_levels_come_from_a_run_apart():
    """Would catch: levels read from the run they are compared with, where chance alone lifts the hardest."""
    study = Synthetic(task(1), [record("binning", 0, "-" * 32), record("alone", 0, "+-"), record("with peers", 0, "++")])
    table = experiment("difficulty").summarize(study, plan(experiment("difficulty")))
    assert means(table, "very hard")["Pass@1 alone"] == 50
    assert means(table, "very hard")["gain"] == 50
    assert not row(table, "hard").values
    arm = next(arm for arm in experiment("difficulty").arms(plan(experiment("difficulty"))) if arm.name == "alone")
    assert arm.prepare(study, study.problems[0], 0)["seed"] != study.made[0].seed


# -- sweeps -----------------------------------------------------------------------------------------------------------


def leaps(name, **options):
    chosen = experiment(name)
    return {arm.name: dict(arm.leap) for arm in chosen.arms(plan(chosen, **options))}


def test_swept_lengths_are_multiples_of_the_tasks():
    """Would catch: 2,048 tokens between blocks on mazes of 216 tokens: no block at all."""
    assert [leap["interval"] for leap in leaps("granularity").values() if "interval" in leap] == [36, 54, 72, 108]
    assert [leap["interval"] for leap in leaps("position").values() if "interval" in leap] == [27, 54, 81, 108, 135, 162]
    assert {leap["interval"] for leap in leaps("single").values() if "interval" in leap} == {27, 54}


def test_no_path_is_to_read_more_peers_than_there_are():
    assert [leap["top_k_peers"] for leap in leaps("traffic", n=6).values() if "top_k_peers" in leap] == [1, 2, 3, 4, 5]


def test_given_values_take_the_place_of_the_presets():
    assert [leap["interval"] for leap in leaps("granularity", values=[20, 40.0]).values() if "interval" in leap] == [20, 40]
    assert list(leaps("temperature", values=[0.5])) == ["alone-0.5", "leap-0.5"]


def test_a_block_at_the_end_of_the_budget_is_left_out():
    assert [leap["interval"] for leap in leaps("position", values=[100, 216, 400]).values() if "interval" in leap] == [100]


def test_a_sweep_has_a_row_a_value_and_its_base():
    chosen = experiment("traffic")
    made = plan(chosen, problems=1, n=4)
    study = Synthetic(made.task, [record("independent", 0, "+---"), record("top-1", 0, "++--", own=30),
                                  record("top-2", 0, "+++-"), record("top-3", 0, "++++")])
    table = chosen.summarize(study, made)
    assert [(row.key, row.x) for row in table.rows] == [("independent", None), ("1", 1), ("2", 2), ("3", 3)]
    assert means(table, "1") == {"Pass@1": 50, "Cons@N": 0, "tokens a path": 30}


# -- what an answer costs ---------------------------------------------------------------------------------------------


def test_tokens_are_told_by_kind():
    chosen = experiment("tokens")
    study = Synthetic(task(1), [record("leap", 0, "+", own=10, answer=2, trigger=1, summary=4, comment=7, prompt=99)])
    assert means(chosen.summarize(study, plan(chosen)), "dispersed top-4") == {
        "own": 12, "summaries": 5, "peers' words": 7, "tokens a path": 24, "Pass@1": 100}


def test_aha_moments_are_told_with_their_list_and_their_change():
    chosen = experiment("aha")
    study = Synthetic(task(1), [record("independent", 0, "++", aha=4, own=100), record("leap", 0, "++", aha=3, own=50)])
    table = chosen.summarize(study, plan(chosen))
    assert means(table, "dispersed top-4") == {"moments": 3, "change": -25, "a thousand own tokens": 60, "Pass@1": 100}
    assert all(word in table.notes[0] for word in study.settings.aha)


def test_paths_that_stop_at_their_block_are_not_wrong():
    """Would catch: LeaP-S measured over paths that were not let finish."""
    study = record("4K, 4 paths, top-2", 0, "+---")
    study.paths[1:] = [replace(path, finish_reason="retired", votes=False) for path in study.paths[1:]]
    assert pass_at_1(study) == 1


def test_a_single_paths_answer_costs_what_its_peers_spent():
    """Would catch: an answer's price without the paths that stopped after the block."""
    chosen = experiment("single")
    study = Synthetic(task(1), [record("independent", 0, "++++", own=40), record("4K, 4 paths, top-2", 0, "+---", own=10)])
    table = chosen.summarize(study, plan(chosen))
    assert means(table, "independent")["tokens an answer"] == 40
    assert means(table, "4K")["tokens an answer"] == 40


def test_scaling_counts_the_tokens_of_all_paths():
    chosen = experiment("scaling")
    study = Synthetic(task(1), [record("leap-2", 0, "++", own=10), record("alone-8", 0, "+" * 8, own=10)])
    table = chosen.summarize(study, plan(chosen))
    assert means(table, "leap-2")["tokens a problem"] == 20
    assert means(table, "alone-8")["tokens a problem"] == 80


def test_votes_have_both_votes_of_every_arm():
    chosen = experiment("votes")
    study = Synthetic(task(2), [record("independent", 0, "++", vote=False, shortest=True), record("independent", 1, "++")])
    assert means(chosen.summarize(study, plan(chosen)), "independent") == {
        "Cons@N": 50, "shortest": 100, "Pass@1": 100, "tokens a path": 10}


def test_the_gain_is_over_independent_paths():
    chosen = experiment("main")
    study = Synthetic(task(2), [record("independent", 0, "+-"), record("independent", 1, "--"), record("leap", 0, "++"),
                                record("leap", 1, "--")])
    table = chosen.summarize(study, plan(chosen))
    assert means(table, "dispersed top-4") == {"Pass@1": 50, "gain": 25, "Cons@N": 50, "Pass@N": 50, "tokens a path": 10}


def test_models_that_are_not_given_have_no_arm():
    chosen = experiment("leap-t")
    assert {arm.model for arm in chosen.arms(plan(chosen))} == {""}
    assert {arm.model for arm in chosen.arms(plan(chosen, models=["leap-t", "sft"]))} == {"", "leap-t", "sft"}
    assert any("--sft" in note for note in chosen.summarize(Synthetic(task(1)), plan(chosen)).notes)


def test_a_layer_of_a_mixture_reads_the_answers_of_the_one_before():
    """Would catch: agents that get the question alone, or answers of another problem."""
    chosen = experiment("moa")
    made = plan(chosen, layers=2, agents=2)
    study = Synthetic(made.task, outputs={Unit("moa layer 1", "0", 0): output([[1], [2]])})
    for path, text in zip(study.outputs[Unit("moa layer 1", "0", 0)].paths, ("so 4", "so 5"), strict=True):
        path.segments[-1].text = text
    _, _, first, last = chosen.arms(made)
    assert (first.name, first.n, last.name, last.n, last.after) == ("moa layer 1", 2, "moa", 1, ("moa layer 1",))
    asked = last.prepare(study, study.problems[0], 0)["prompt"]
    assert asked.startswith("question 0") and "Answer 1: so 4" in asked and "Answer 2: so 5" in asked


def test_a_mixture_costs_what_its_layers_cost():
    chosen = experiment("moa")
    study = Synthetic(task(1), [record("moa layer 1", 0, "++-", own=10), record("moa layer 2", 0, "+--", own=10),
                                record("moa", 0, "+", own=5), record("independent", 0, "+-", own=7)])
    table = chosen.summarize(study, plan(chosen, layers=3))
    assert means(table, "moa") == {"Pass@1": 100, "Cons@N": 100, "tokens a problem": 65}
    assert means(table, "independent")["tokens a problem"] == 14


# -- what peers' words do --------------------------------------------------------------------------------------------


def probe(kind, path, answer, block=None, peers=(), own_tokens=72):
    return {"kind": kind, "path": path, "own_tokens": own_tokens, "block": block, "peers": list(peers), "answer": answer}


def at_block(block, path, before, after, peers, placebo=None):
    kinds = {"before": before, "after": after, **({} if placebo is None else {"placebo": placebo})}
    return [probe(kind, path, answer, block, peers) for kind, answer in kinds.items()]


def test_kinds_of_communication_are_told_by_answers():
    """Would catch: a path that holds on to its answer against its peers counted as consistent; a change to what nobody held
    counted as their influence."""
    taken = [*at_block(0, 0, "a", "a", [1], placebo="a"), *at_block(0, 1, "a", "b", [2], placebo="c"),
             *at_block(0, 2, "b", "b", [0]), *at_block(0, 3, "b", "c", [0, 1]), probe("end", 4, "x")]
    chosen = experiment("types")
    study = Synthetic(task(1), [record("leap", 0, "+++++", probes={"taken": taken})])
    table = chosen.summarize(study, plan(chosen))
    assert means(table, "1") == {"consistent": 25, "unaffected": 25, "influenced": 25, "changed otherwise": 25,
                                 "influenced, own summary": 0, "changed otherwise, own summary": 50}
    assert row(table, "1").label == "72"


def test_a_peer_that_has_ended_holds_its_last_answer():
    """Would catch: finished peers, who are not probed at a block any more, influencing nobody."""
    taken = [probe("end", 1, "b"), *at_block(1, 0, "a", "yes", [1])]
    chosen = experiment("types")
    study = Synthetic(task(1), [record("leap", 0, "++", probes={"taken": taken})])
    assert means(chosen.summarize(study, plan(chosen)), "2")["influenced"] == 100


def test_answers_are_compared_as_the_task_groups_them():
    """Would catch: "1/2" after "0.5" counted as a change."""
    taken = at_block(0, 0, "YES", "yes", [1]) + at_block(0, 1, "yes", "yes", [0])
    chosen = experiment("types")
    study = Synthetic(task(1), [record("leap", 0, "++", probes={"taken": taken})])
    assert means(chosen.summarize(study, plan(chosen)), "1")["consistent"] == 100


def test_transitions_go_from_the_probe_before_the_first_block_to_the_answer():
    """Would catch: a probe after the comment, or of a later block, taken for what a path held at first."""
    taken = [*at_block(0, 0, "no", "yes", [1]), *at_block(1, 0, "yes", "yes", [1]), *at_block(0, 1, "yes", "yes", [0]),
             probe("end", 2, "no"), *at_block(0, 3, "yes", "no", [0]), probe("end", 1, "yes")]
    alone = [probe("share", 0, "no"), probe("share", 0, "yes", own_tokens=144), probe("share", 1, "yes")]
    chosen = experiment("transitions")
    study = Synthetic(task(1), [record("leap", 0, "++--", probes={"taken": taken}),
                                record("alone", 0, "-+", probes={"taken": alone})])
    table = chosen.summarize(study, plan(chosen))
    assert {kind: means(table, kind) for kind in ("C>C", "I>C", "I>I", "C>I")} == {
        "C>C": {"paths": 25, "alone": 50}, "I>C": {"paths": 25, "alone": 0}, "I>I": {"paths": 25, "alone": 50},
        "C>I": {"paths": 25, "alone": 0}}
    # right before they read: path 1 and 3 of a wrong peer at block 0, path 0 of a right one at block 1
    assert any("0 wrong: 0.0 [0.0, 0.0], 1 wrong: 50.0" in note for note in table.notes)


# -- all of them, and the paper ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_arms_have_names_of_their_own_and_a_study_takes_them(name):
    chosen = experiment(name)
    arms = chosen.arms(plan(chosen, models=["leap-t", "sft"]))
    assert len({arm.name for arm in arms}) == len(arms)
    assert all(earlier in {arm.name for arm in arms} for arm in arms for earlier in arm.after)


UNMATCHED = {"aha": {"with peers"}, "single": {f"{at}, column 5 of Table 4" for at in ("2K", "4K")},
             "types": {"3", "4", "5", "6"}}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_papers_numbers_stand_beside_rows(name):
    """Would catch: a number under a key that no row has: it would never be seen."""
    chosen = experiment(name)
    made = plan(chosen, n=32, models=["leap-t", "sft"], **({"beginnings": "both"} if name == "trap" else {}))
    rng = random.Random(0)
    study = everything(chosen, made, lambda arm, problem, path: rng.random() < 0.5)
    left = {key for numbers in result_of(chosen, study, made).unmatched().values() for key in numbers}
    assert left == UNMATCHED.get(name, set())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_study_that_has_just_begun_has_a_table(name):
    """Would catch: a report of what is not done yet that fails."""
    chosen = experiment(name)
    assert chosen.summarize(Synthetic(task(2)), plan(chosen)) is not None


def test_every_table_and_figure_has_an_entry():
    figures = {str(i) for i in (*range(1, 14), *range(17, 20), *range(26, 33))}
    wanted = {f"Table {i}" for i in range(1, 8)} | {f"Fig. {number}" for number in figures}
    assert {entry.where.rstrip("ab") for entry in paper.ENTRIES} == wanted


def test_every_experiment_is_in_the_paper():
    assert {entry.experiment for entry in paper.ENTRIES} - {None} == set(EXPERIMENTS)


def test_an_average_of_table_1_is_that_of_its_data_sets():
    """Would catch: a number copied wrongly; the paper rounds to two places."""
    from leapgen.evaluation.published import PASS_AT_1, TASKS

    for model in ("R1-7B", "R1-14B", "QwQ-32B"):
        for key, average in PASS_AT_1["average", model]["Pass@1"].items():
            assert sum(PASS_AT_1[one, model]["Pass@1"][key] for one in TASKS) / 4 == pytest.approx(average, abs=0.02)


def test_numbers_are_the_models_own_where_there_are_any():
    assert beside("main", "gpqa-diamond", "Qwen/QwQ-32B")[1]["Pass@1"]["dispersed top-4"] == 63.32
    assert beside("main", "maze", "maze") == beside("main", "aime24", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B")


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean traffic"):
        experiment("trafic")
    with pytest.raises(ValueError, match=r"Fig\. 11"):
        paper.entry("Fig. 111")
