"""What a run leaves behind: on disk and back, whole or not at all, and readable at a glance."""

import copy
import errno
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_output import sample

from leapgen.record.files import save_json
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message, Source
from leapgen.record.run import KINDS, SAMPLED_KINDS, BlockRecord, LeapOutput, PathOutput, Route, Segment

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
COUNT = st.integers(0, 1 << 40)
NUMBER = st.floats(allow_nan=False)


@st.composite
def segments(draw):
    kind = draw(st.sampled_from(KINDS))
    tokens = draw(st.lists(st.integers(0, 1 << 18), max_size=4))
    both = [[draw(st.none() | NUMBER) for _ in tokens] if kind in SAMPLED_KINDS else [] for _ in range(2)]
    return Segment(kind, tokens, draw(TEXT), draw(st.none() | st.integers(0, 9)), *both, draw(st.lists(SOURCES, max_size=2)))


SOURCES = st.builds(Source, COUNT, COUNT, st.integers(-1, 99), st.integers(0, 9))
SUMMARIES = st.builds(Message, st.integers(0, 99), TEXT, st.integers(0, 9), st.none() | TEXT, st.none() | NUMBER, COUNT,
                      st.booleans(), st.lists(st.integers(0, 1 << 18), max_size=3), st.none() | COUNT)
ROUTES = st.builds(Route, st.integers(0, 99), st.none() | NUMBER)
BLOCKS = st.builds(BlockRecord, st.integers(0, 9), st.dictionaries(st.integers(0, 99), SUMMARIES, max_size=3),
                   st.dictionaries(st.integers(0, 99), st.lists(ROUTES, max_size=3), max_size=3))
PATHS = st.builds(PathOutput, st.integers(0, 99), st.lists(segments(), max_size=4), st.none() | TEXT,
                  st.none() | st.sampled_from(["stop", "forced", "length", "interrupted"]),
                  st.just({}) | st.just({"stage": "waiting", "own_tokens": 7, "paused_at": None}))
LEDGERS = st.builds(Ledger, decoded=COUNT, recomputed=COUNT, pages_peak=COUNT,
                    seconds=st.dictionaries(TEXT, NUMBER, max_size=2))
PLAIN = st.dictionaries(TEXT, st.none() | st.booleans() | COUNT | NUMBER | TEXT | st.lists(COUNT, max_size=2), max_size=3)
OUTPUTS = st.builds(LeapOutput, TEXT, st.lists(PATHS, max_size=3), st.lists(BLOCKS, max_size=2), LEDGERS,
                    st.integers(0, (1 << 63) - 1), TEXT, PLAIN, PLAIN, st.booleans(), PLAIN, PLAIN)


# -- on disk and back -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(output=OUTPUTS)
def test_what_is_saved_is_what_is_loaded(tmp_path_factory, output):
    """Would catch: path indices of blocks left as strings, a field left out, text in the wrong encoding, rounded numbers."""
    path = tmp_path_factory.mktemp("saved") / "run.json"
    before = copy.deepcopy(output)
    output.save(path)
    loaded = LeapOutput.load(path)
    assert loaded == output == before
    assert all(type(index) is int for block in loaded.blocks for index in [*block.summaries, *block.routes])
    assert [path.name for path in path.parent.iterdir()] == ["run.json"]


def test_a_loaded_run_answers_as_the_saved_one_did(tmp_path):
    """Would catch: plain dictionaries where there were paths, blocks, summaries and routes."""
    output = sample(3)
    output.save(str(tmp_path / "run.json"))
    loaded = LeapOutput.load(str(tmp_path / "run.json"))
    assert repr(loaded) == repr(output)
    assert loaded.blocks[0].routes[2][0].peer == 0 and loaded.blocks[0].summaries[1].text == "x"
    assert loaded.paths[1].token_ids == output.paths[1].token_ids
    assert loaded.tokens_by_kind() == {"prompt": 9, "beginning": 0, "own": 6, "trigger": 3, "summary": 6, "closing": 0,
                                       "comment": 9, "forced": 0, "answer": 3}


def test_a_bare_file_name_is_saved_where_one_stands(tmp_path, monkeypatch):
    """Would catch: a temporary file on another file system (``/tmp``), from which no rename leads to the target."""
    monkeypatch.chdir(tmp_path)
    sample().save("run.json")
    assert LeapOutput.load("run.json") == sample()


def test_a_saved_file_can_be_read_by_whom_any_other_new_file_can(tmp_path):
    """Would catch: the mode 0600 of a temporary file kept, so that nobody else in the group can read the results."""
    before = os.umask(0o022)
    try:
        sample().save(tmp_path / "run.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o644


# -- whole or not at all ----------------------------------------------------------------------------------------------------


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_midway(descriptor):
    os.ftruncate(descriptor, 30)
    full_disk()


@pytest.mark.parametrize(("module", "name", "failure"), [
    (json, "dumps", full_disk), (os, "fsync", full_disk_midway), (os, "replace", full_disk), (Path, "open", full_disk),
], ids=["dumps", "midway", "replace", "open"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_save_leaves_the_earlier_file_and_the_run_as_they_were(tmp_path, monkeypatch, module, name, failure, error):
    """Would catch: the target opened for writing at once, so that a full disk costs both the old and the new results; a
    temporary file left behind; a Ctrl-C that does either.
    """
    def fail(*args, **kwargs):
        try:
            failure(*args, **kwargs)
        except OSError as caught:
            raise (caught if error is OSError else error()) from None

    path, output = tmp_path / "run.json", sample()
    output.save(path)
    earlier = path.read_bytes()
    longer = sample(9)
    before = copy.deepcopy(longer)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(error):
            longer.save(path)
    assert path.read_bytes() == earlier and longer == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    longer.save(path)  # there is room again
    assert LeapOutput.load(path) == longer


def test_what_json_cannot_hold_leaves_the_earlier_file_too(tmp_path):
    """Would catch: only OSError being cleaned up after."""
    path = tmp_path / "run.json"
    sample().save(path)
    with pytest.raises(TypeError):
        save_json({"a": {1, 2}}, path)
    assert LeapOutput.load(path) == sample()
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("place", ["missing/run.json", "file/run.json"])
def test_a_place_that_does_not_exist_raises_oserror_and_names_it(tmp_path, place):
    """Would catch: a directory made without being asked for, or an error that does not say where."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=place.split("/")[0]):
        sample().save(tmp_path / place)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_saving_over_a_directory_raises_oserror(tmp_path):
    """Would catch: the temporary file left beside it."""
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError):
        sample().save(tmp_path / "run.json")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("kind", ["device", "pipe", "circle"])
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, kind):
    """Would catch: a device node replaced by a file, as root: ``/dev/full`` was gone."""
    path = tmp_path / "run.json"
    if kind == "circle":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/full")
    before = os.lstat(path).st_ino
    with pytest.raises(OSError, match="not a regular file"):
        sample().save(path)
    assert os.lstat(path).st_ino == before and stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path):
    """Would catch: ``run.json -> /scratch/run.json`` replaced by a file on the small disk."""
    (tmp_path / "scratch").mkdir()
    for target in ("scratch/there.json", "scratch/new.json"):
        link = tmp_path / "run.json"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        sample().save(link)
        sample(3).save(link)
        assert link.is_symlink() and LeapOutput.load(tmp_path / target) == sample(3)
    assert sorted(p.name for p in (tmp_path / "scratch").iterdir()) == ["new.json", "there.json"]


def test_content_is_on_the_disk_before_it_takes_the_files_place(tmp_path, monkeypatch):
    """Would catch: an empty file after a power failure, where the rename outran the content."""
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("content"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), replace(*paths))[1])
    sample().save(tmp_path / "run.json")
    assert order == ["content", "rename"]


# -- files that are none ----------------------------------------------------------------------------------------------------


def wrong_files():
    good = sample().to_dict()
    yield "empty", ""
    yield "text", "hello"
    yield "number", "5"
    yield "list", "[]"
    yield "other", '{"question": "x", "paths": []}'
    yield "version", json.dumps({**good, "leapgen": 99})
    yield "no paths", json.dumps({k: v for k, v in good.items() if k != "paths"})
    yield "path", json.dumps({**good, "paths": [{"index": 0}]})
    yield "paths", json.dumps({**good, "paths": None})
    yield "segment", json.dumps({**good, "paths": [{"index": 0, "segments": [{"kind": "own"}]}]})
    yield "blocks", json.dumps({**good, "blocks": [{"index": 0, "summaries": {"a": {}}, "routes": {}}]})
    yield "ledger", json.dumps({**good, "ledger": {"spent": 3}})
    yield "field", json.dumps({**good, "extra": 3})


@pytest.mark.parametrize("text", [text for _, text in wrong_files()], ids=[name for name, _ in wrong_files()])
def test_a_file_that_is_no_saved_run_is_named(tmp_path, text):
    """Would catch: a KeyError without a file name, when one of a hundred result files is not what it should be."""
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json is not a saved leapgen run"):
        LeapOutput.load(path)


def test_a_file_cut_short_anywhere_is_named(tmp_path):
    """Would catch: a truncated download that loads as a shorter run."""
    path = tmp_path / "mine.json"
    sample(1).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"mine\.json"):
            LeapOutput.load(path)


def test_a_binary_file_is_named(tmp_path):
    """Would catch: ``'utf-8' codec can't decode byte`` without a file name, for model weights or a gzipped run."""
    path = tmp_path / "mine.json"
    path.write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    with pytest.raises(ValueError, match=r"mine\.json is not a saved leapgen run"):
        LeapOutput.load(path)


def test_the_version_that_cannot_be_read_is_told(tmp_path):
    """Would catch: a run of a later version read wrongly, or refused without a reason."""
    (tmp_path / "later.json").write_text(json.dumps({**sample().to_dict(), "leapgen": 99}))
    with pytest.raises(ValueError, match=r"later\.json.*format 99.*reads up to 4"):
        LeapOutput.load(tmp_path / "later.json")


def test_a_file_that_is_not_there_is_an_oserror(tmp_path):
    """Would catch: a missing file reported as a broken one."""
    with pytest.raises(FileNotFoundError, match="none"):
        LeapOutput.load(tmp_path / "none.json")


# -- a path -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(path=PATHS)
def test_everything_said_of_tokens_has_one_entry_for_each(path):
    """Would catch: masks and log-probabilities out of step with the tokens, as a loss over samples would read them."""
    assert len(path.token_ids) == len(path.provenance) == len(path.logprobs) == len(path.sampling_logprobs)
    assert path.count(*KINDS) == len(path.token_ids)
    assert sum(path.count(kind) for kind in KINDS) == len(path.token_ids)
    for kind, logprob, sampling in zip(path.provenance, path.logprobs, path.sampling_logprobs, strict=True):
        assert kind in SAMPLED_KINDS or (logprob is None and sampling is None)


def test_a_paths_tokens_texts_and_counts_are_those_of_its_segments():
    """Would catch: a peer's words counted or quoted as the path's own, the prompt in its text, kinds mixed up."""
    path = sample().paths[1]
    assert path.token_ids == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 4]
    assert path.provenance == ["prompt"] * 3 + ["own"] * 2 + ["trigger"] + ["summary"] * 2 + ["comment"] * 3 + ["answer"]
    assert path.logprobs == [None] * 3 + [-0.5, -1.0, None, -1.0, None] + [None] * 3 + [-2.0]
    assert path.sampling_logprobs == [None] * 3 + [-0.2, 0.0, None, 0.0, None] + [None] * 3 + [-0.1]
    assert (path.text, path.own_text) == ("So 漢 Wait. x Peer 42", "So 漢 42")
    assert (path.count("own", "answer"), path.count("comment"), path.count()) == (3, 3, 0)
    assert [segment.kind for segment in path.segments if segment.sampled] == ["own", "summary", "answer"]


# -- at a glance ------------------------------------------------------------------------------------------------------------


def test_the_repr_of_32_paths_is_readable():
    """Would catch: a notebook flooded with token ids, or a summary that leaves out what one looks for first."""
    shown = repr(sample(32, question="What is " + "6 * " * 500 + "7?"))
    lines = shown.splitlines()
    assert len(lines) <= 10 and max(map(len, lines)) <= 180
    wanted = ("What is 6", "...", "32 paths", "1 blocks", "majority='42'", "10 tokens decoded")
    assert all(word in lines[0] for word in wanted)
    assert "index=0, answer='42', finish_reason='stop', own=3, summary=2, comment=3" in lines[1]
    assert "25 more" in lines[-1]


def test_the_repr_shows_every_path_of_a_small_group():
    """Would catch: ``... 0 more``, or the last path left out."""
    for n in (1, 2, 8):
        shown = repr(sample(n))
        assert shown.count("PathOutput") == n and "more" not in shown
    assert "majority=None" in repr(sample(1, answer=None))
    assert repr(LeapOutput("?", [])).splitlines()[0].startswith("LeapOutput('?', 0 paths")


@pytest.mark.parametrize("text", ["x" * 5000, "line\n" * 1000], ids=["long", "lines"])
def test_the_repr_stays_short_whatever_was_answered(text):
    """Would catch: a path whose 'answer' is a page of text, shown whole, once for each path and once as the majority."""
    shown = repr(sample(32, answer=text, question=text))
    assert len(shown.splitlines()) <= 10 and len(shown) < 4000
