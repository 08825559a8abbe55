"""Studies on a generator without a model: what is run when, what is kept, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import stub
from stub import SETTINGS, Engine

from leapgen.evaluation.arms import Arm, arms
from leapgen.evaluation.study import Study
from leapgen.evaluation.table import write_report
from leapgen.evaluation.units import Unit
from leapgen.evaluation.worker import UnitFailed


def made(folder, steps=(3, 3, 3), names="leap,independent", settings=SETTINGS):
    return Study.create(folder, stub.problems(steps), arms(names) if isinstance(names, str) else names, settings)


def worked(study, engine=None, **options):
    engine = engine or Engine()
    study.work(lambda name: engine, **options)
    return engine


def test_every_unit_is_run_once_and_a_hard_problem_does_not_hold_up_the_others(tmp_path):
    """Would catch: units taken in batches that end with their slowest; a unit forgotten or done twice."""
    study = made(tmp_path / "s", steps=(40, 3, 3, 3, 3), names="leap")
    engine = worked(study, at_once=2)
    assert [record.unit for record in study.records()] == study.units and len(engine.asked) == len(study.units)
    assert max(map(len, engine.seen)) == 2
    assert len(engine.seen) < 40 + 40 + 5, "the two groups of the hard problem are at work beside each other or the others"
    assert not list((tmp_path / "s" / "claims").iterdir()) and study.missing() == []


def test_a_unit_s_seed_follows_from_problem_and_group_alone(tmp_path):
    """Would catch: arms on other random numbers, and runs that change when a problem or an arm is added."""
    few = worked(made(tmp_path / "few", (3, 3))).asked
    many = worked(made(tmp_path / "many", (4, 3, 3), "independent,leap,official")).asked
    seeds = {arm: [record.seed for record in Study.open(tmp_path / "few").records(arm)] for arm in ("leap", "independent")}
    assert seeds["leap"] == seeds["independent"] and len(set(seeds["leap"])) == len(seeds["leap"]) == 4
    assert sorted(run["seed"] for run in few) == sorted(2 * seeds["leap"])
    by_problem = [{record.unit.problem: record.seed for record in Study.open(tmp_path / name).records("leap")
                   if record.group == 1} for name in ("few", "many")]
    assert by_problem[0].items() <= by_problem[1].items()
    assert len({run["seed"] for run in many}) == 6


def test_an_arm_begins_when_those_it_comes_after_are_done(tmp_path):
    """Would catch: a budget or a bank of summaries from half of the units; an empty unit that is asked for for ever."""
    seen = []

    def prepare(study, problem, group):
        seen.append(len(study.records("leap")))
        return None if problem.id == "0" else {"max_new_tokens": 77, "beginning": "It is"}

    study = made(tmp_path / "s", names=[Arm("late", after=("leap",), prepare=prepare), *arms("leap")])
    engine = worked(study, at_once=3)
    assert set(seen) == {6} and len(seen) == 6
    late = study.records("late")
    assert [record.prepared for record in late] == [{}] * 2 + [{"max_new_tokens": 77, "beginning": "It is"}] * 4
    assert [len(record.paths) for record in late] == [0, 0, 3, 3, 3, 3]
    assert [run.get("beginning") for run in engine.asked] == [None] * 6 + ["It is"] * 4
    with pytest.raises(FileNotFoundError):
        study.output(late[0].unit)


def test_one_model_is_loaded_at_a_time_and_used_up_before_the_next(tmp_path):
    """Would catch: a model loaded anew for every unit, or two on one device."""
    settings = replace(SETTINGS, models={"student": "other"})
    study = made(tmp_path / "s", names="leap,leap:model=student,independent,independent:model=student", settings=settings)
    loaded = []
    study.work(lambda name: loaded.append(name) or Engine())
    assert loaded == ["stub", "other"] and not study.missing()


def test_interrupted_it_gives_its_claims_back_and_goes_on_with_the_rest(tmp_path):
    """Would catch: units that nobody may touch for minutes after Ctrl-C, or are done again though they were finished."""
    def interrupt(step):
        if step == 5:
            raise KeyboardInterrupt

    study = made(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        worked(study, Engine(interrupt), at_once=2)
    done = len(study.records())
    assert 0 < done < len(study.units) and not list((tmp_path / "s" / "claims").iterdir())
    assert len(worked(made(tmp_path / "s")).asked) == len(study.units) - done


def test_a_unit_that_fails_is_named_and_what_was_finished_stays(tmp_path):
    """Would catch: an error that does not say which problem it was, or takes the others' results with it."""
    class Picky(Engine):
        def stream(self, prompt, n, **options):
            if prompt.startswith("9"):
                raise ValueError("the prompt is too long")
            return super().stream(prompt, n, **options)

    study = made(tmp_path / "s", steps=(1, 9))
    with pytest.raises(UnitFailed, match=r"arm leap, problem 1, group 0: the prompt is too long"):
        worked(study, Picky(), at_once=1)
    assert {record.problem for record in study.records()} == {"0"} and not list((tmp_path / "s" / "claims").iterdir())


def test_what_another_process_has_finished_meanwhile_is_dropped(tmp_path):
    """Would catch: a process that was suspended and does for hours what others have done."""
    study, other = made(tmp_path / "s", (3, 500), "leap"), made(tmp_path / "s", (3, 500), "leap")

    def finish(step):
        if step == 20:  # as if our claims had gone stale
            for unit in other.missing():
                other.parts.append("other", 5, other.keep(unit, {}, stub.output("500 steps", 3, unit.seed(0))))
            other.parts.refresh()
        if step > 20:
            time.sleep(0.02)

    engine = worked(study, Engine(finish))
    assert len(engine.seen) < 400 and len(study.records()) == 4 and not engine.runs


def test_processes_beside_each_other_share_the_units_and_wait_for_each_other(tmp_path):
    """Would catch: a process that ends, or begins what is not prepared, while another is still at the units it needs."""
    make = lambda: made(tmp_path / "s", (20, 2, 2, 2), "equal:leap,leap,independent")  # noqa: E731
    engines = [Engine(), Engine()]
    workers = [threading.Thread(target=worked, args=(make(), engine), kwargs={"at_once": 2}) for engine in engines]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    study = make()
    assert not study.missing() and len(engines[0].asked) + len(engines[1].asked) == len(study.units)
    assert all(engine.asked for engine in engines)


def test_a_report_has_the_same_bytes_in_whichever_order_units_were_done(tmp_path):
    """Would catch: numbers that depend on processes, order, time, or on a unit that was done twice."""
    names = "leap,independent,equal:leap"
    study = made(tmp_path / "a", names=names)
    worked(study, at_once=1)
    write_report(study)
    for _ in range(3):  # two that are interrupted, and one to the end
        other = made(tmp_path / "b", names=names)

        def interrupt(step):
            if step == 7:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            worked(other, Engine(interrupt), at_once=5)
    worked(other, at_once=5)
    twice = other.records()[0]
    other.parts.append("late", 7, replace(twice, seconds={"reason": 1e6}))
    write_report(Study.open(tmp_path / "b"))
    for name in ("report.json", "report.txt"):
        assert (tmp_path / "a" / "report" / name).read_bytes() == (tmp_path / "b" / "report" / name).read_bytes()


@pytest.mark.parametrize(("change", "said"), [
    ({"settings": replace(SETTINGS, n=4)}, ["n: 3 there, 4 asked for"]),
    ({"settings": replace(SETTINGS, leap=SETTINGS.leap.replace(interval=64), sampling={"temperature": 1.0})},
     ["leap.interval: 4096 there, 64 asked for", "sampling.temperature: nothing there, 1.0 asked for"]),
    ({"names": "leap,independent,own"}, ["arms.own: nothing there"]),
    ({"names": "independent,leap"}, ['order of arms: ["leap", "independent"] there']),
    ({"steps": (3, 3, 4)}, ['problems[2].question: "3 steps" there, "4 steps" asked for']),
    ({"steps": (3, 3)}, ["problems: "]),
])
def test_a_folder_of_other_settings_is_refused_and_what_differs_is_shown(tmp_path, change, said):
    """Would catch: numbers of two studies in one table, or a refusal that leaves the user to compare two files."""
    made(tmp_path / "s")
    with pytest.raises(ValueError, match="other settings") as refused:
        made(tmp_path / "s", **change)
    assert all(part in str(refused.value) for part in said) and str(refused.value).count("\n") == len(said) + 1
    made(tmp_path / "s")


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    """Would catch: a study among the files of something else; a report of nothing."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="something else"):
        made(tmp_path)
    with pytest.raises(ValueError, match="holds no study"):
        Study.open(tmp_path)
    with pytest.raises(ValueError, match=r"no unit is finished yet; there are 12 to do"):
        write_report(made(tmp_path / "s"))


@pytest.mark.parametrize(("names", "said"), [
    ([Arm("a"), Arm("a")], "two arms of the study are called 'a'"),
    ([Arm("a", after=("b",))], "arm a comes after b, which is not in the study"),
    ([Arm("a", after=("b",)), Arm("b", after=("a",))], "arm a comes after itself: a after b after a"),
    ([Arm("a", model="student")], "arm a needs a model 'student'; the study has no further models"),
    ([], "there is none"),
    ([Arm("a", leap={"interval": 0})], "interval=0 is not allowed"),
])
def test_arms_that_cannot_be_run_are_refused_before_any_work(tmp_path, names, said):
    """Would catch: an error after hours, or a folder that waits for ever."""
    with pytest.raises(ValueError, match=said):
        made(tmp_path / "s", names=names)
    assert not (tmp_path / "s").exists()


def test_a_study_that_was_opened_reads_but_does_not_work(tmp_path):
    """Would catch: units run without the protocol and preparation that a file cannot hold."""
    study = made(tmp_path / "s", names="leap,own,equal:leap")
    worked(study)
    opened = Study.open(tmp_path / "s")
    assert opened.units == study.units and opened.records() == study.records() and opened.settings == study.settings
    assert opened.output(study.units[0]).answers == [path.answer for path in study.records()[0].paths]
    assert [arm.after for arm in opened.arms] == [arm.after for arm in study.arms]
    with pytest.raises(ValueError, match="opened to be read"):
        opened.work(lambda name: Engine())


def test_a_record_has_right_votes_tokens_and_turns_of_thought_in_own_words(tmp_path):
    """Would catch: another's words counted, a word within a word counted, an answer graded against another problem."""
    study = made(tmp_path / "s", names="leap", settings=replace(SETTINGS, aha=("wait",)))
    worked(study)
    for record in study.records():
        output = study.output(record.unit)
        assert [path.right for path in record.paths] == [answer == "yes" for answer in output.answers]
        assert record.majority == output.majority() and record.shortest_majority == output.shortest_majority()
        assert record.majority_right == (record.majority == "yes")
        assert [path.own for path in record.paths] == [path.count("own") for path in output.paths]
        assert [path.spent for path in record.paths] == [path.count("own") + 1 for path in output.paths]
        assert record.spent == sum(path.spent for path in record.paths) + output.ledger.discarded
        assert [path.aha for path in record.paths] == [3, 3, 3]
        assert record.seconds == output.ledger.seconds and "seconds" not in record.ledger


def test_study_json_is_whole_when_processes_begin_together(tmp_path):
    """Would catch: a process that reads half of the settings and refuses them."""
    start, failed = threading.Barrier(12), []

    def begin():
        start.wait()
        try:
            made(tmp_path / "s")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=begin) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and [file.name for file in (tmp_path / "s").iterdir()] == ["study.json"]
    assert json.loads((tmp_path / "s" / "study.json").read_text())["n"] == 3


def test_units_are_done_group_by_group_so_that_an_early_report_has_all_arms(tmp_path):
    """Would catch: a report halfway that knows nothing of half of the arms."""
    study = made(tmp_path / "s", names="leap,equal:leap")
    order = study.missing()
    assert order[:2] == [Unit("leap", "0", 0), Unit("independent", "0", 0)] and order[-1] == Unit("equal:leap", "2", 1)
    assert [unit.group for unit in order] == [0] * 6 + [1] * 6 + [0] * 3 + [1] * 3
