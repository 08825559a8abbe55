"""Arms by text: what a text stands for, and how a wrong one is refused."""

from __future__ import annotations

import pytest

from leapgen import LeapConfig, SamplingConfig
from leapgen.evaluation.arms import KINDS, arm, arms
from leapgen.evaluation.controls import EqualCost, FromStrangers
from leapgen.evaluation.placebos import OwnSummary
from leapgen.protocol.leap import Leap


@pytest.mark.parametrize(("text", "leap", "sampling"), [
    ("leap", {}, {}),
    ("independent", {"max_blocks": 0, "explain": False}, {}),
    ("leap-t", {"self_summarize": True, "explain": False}, {}),
    ("single", {"blocks": (0,)}, {}),
    ("single:at=2048,top_k_peers=2", {"interval": 2048, "blocks": (0,), "top_k_peers": 2}, {}),
    ("leap:router=random,top_k_peers=2,temperature=0.8", {"router": "random", "top_k_peers": 2}, {"temperature": 0.8}),
    ("leap:blocks=0+2,finished-share=yes,max_blocks=none",
     {"blocks": (0, 2), "finished_share": True, "max_blocks": None}, {}),
    ("leap:top_k=none,stop_strings=done+over", {"stop_strings": ("done", "over")}, {"top_k": None}),
    ("official", {"similarity": "indel", "sampling_defaults": (("min_p", 0.05),), "finished_share": False}, {}),
    ("official:finished_share=yes",
     {"similarity": "indel", "sampling_defaults": (("min_p", 0.05),), "finished_share": True}, {}),
])
def test_a_text_changes_the_fields_it_names_and_no_others(text, leap, sampling):
    """Would catch: a preset that takes back the study's own settings, or a value of another type."""
    one = arm(text)
    assert (one.name, dict(one.leap), dict(one.sampling), one.protocol) == (text, leap, sampling, Leap)
    LeapConfig().replace(**one.leap)
    SamplingConfig().replace(**one.sampling)


def test_model_paths_and_protocol_can_be_told(tmp_path):
    """Would catch: an arm that runs on the study's model though it names another."""
    one = arm("own:model=student,n=4,router=all")
    assert (one.model, one.n, one.protocol, one.leap) == ("student", 4, OwnSummary, {"router": "all"})


@pytest.mark.parametrize(("text", "said"), [
    ("laep", r"no arm 'laep' \(did you mean leap"),
    ("equal", r"no arm 'equal'"),
    ("equal:laep", r"no arm 'laep'"),
    ("leap:roter=random", r"arm 'leap:roter=random': there is no field 'roter' \(did you mean router"),
    ("leap:router=rand", "router='rand' is not allowed"),
    ("leap:top_k_peers=two", "top_k_peers=two is not allowed: it must be an integer"),
    ("leap:finished_share=2", "finished_share=2 is not allowed: it must be yes or no"),
    ("leap:random", "'random' is no FIELD=VALUE"),
    ("leap:similarity=none", "similarity='none' is not allowed"),
    ("leap:temperature=-1", "temperature=-1.0 is not allowed"),
])
def test_what_is_wrong_with_a_text_is_said(text, said):
    """Would catch: hours spent on a misspelled setting, or a traceback for one."""
    with pytest.raises(ValueError, match=said):
        arm(text)


def test_commas_separate_arms_and_fields():
    """Would catch: a field taken for an arm, or an arm for a field."""
    names = [one.name for one in arms("leap:router=random,top_k_peers=2, own,leap,single:at=9,top_k=5,leap")]
    assert names == ["leap:router=random,top_k_peers=2", "own", "leap", "single:at=9,top_k=5"]
    assert [one.name for one in arms(["leap,own", "leap", "official"])] == ["leap", "own", "official"]


def test_arms_that_others_come_after_are_put_before_them():
    """Would catch: a placebo or a baseline that waits for an arm which is not in the study."""
    assert [one.name for one in arms("strangers,equal:leap")] == ["leap", "strangers", "independent", "equal:leap"]
    assert [one.name for one in arms("strangers:router=all,leap")] == ["leap:router=all", "strangers:router=all", "leap"]


def test_a_control_is_like_its_arm_in_all_but_what_it_controls():
    """Would catch: an equal-cost baseline of another temperature or model; strangers from an arm of other settings."""
    text = "equal:leap:router=random,temperature=0.3,model=student,max_new_tokens=99,interval=9"
    one, base = arm(text), "independent:temperature=0.3,model=student,max_new_tokens=99"
    assert (one.name, one.after) == (text, (text.removeprefix("equal:"), base)) and one.prepare == EqualCost(*one.after)
    assert (one.leap, one.sampling, one.model) == (arm(base).leap, arm(base).sampling, "student")
    assert arm("strangers:top_k_peers=2").prepare == FromStrangers("leap:top_k_peers=2")


def test_every_kind_has_a_text():
    """Would catch: a kind that cannot be told by its name alone."""
    assert [arm(name).name for name in KINDS] == [*KINDS]
