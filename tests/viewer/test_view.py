"""What a page is told of a run, and the file it is put into; no browser."""

import base64
import gzip
import hashlib
import json
import re

import pages
import pytest

from leapgen import LeapOutput
from leapgen.terminal.cli import main
from leapgen.viewer import page, run_view
from leapgen.viewer.page import FOLDER, SCRIPTS, STYLES, plain_json


def viewed(output, **options):
    return run_view(output.to_dict(), [path.claims(len(output.blocks)) for path in output.paths], output.majority(),
                    **options)


def test_the_words_of_each_peer_are_found_in_a_comment():
    """Would catch: a peer's words given to another, or the frame around them taken for words."""
    output = pages.run()
    comments = [segment for segment in viewed(output)["paths"][1]["segments"] if segment["kind"] == "comment"]
    assert len(comments) == 2
    for block, comment in enumerate(comments):
        said = [(source["sender"], comment["text"][slice(*source["place"])]) for source in comment["sources"]]
        assert said == [(peer, output.blocks[block].summaries[peer].text) for peer in (2, 3)]


def test_words_in_another_frame_have_their_senders_and_no_place():
    """Would catch: an error, or words of somebody else, where a protocol tells messages in a form of its own."""
    output = pages.run(n=3)
    comment = next(segment for segment in output.paths[0].segments if segment.kind == "comment")
    comment.text = comment.text.replace("Peer", "Friend")
    shown = next(segment for segment in viewed(output)["paths"][0]["segments"] if segment["kind"] == "comment")
    assert [(source["sender"], source["place"]) for source in shown["sources"]] == [(1, None), (2, None)]


def test_equal_answers_have_one_number_and_votes_decide_their_order():
    """Would catch: two spellings of an answer in two colours; the winner of the vote not the first."""
    output = pages.run(n=5)
    for path, answer in zip(output.paths, ("7", "25", "25.", None, "$25$"), strict=True):
        path.answer = answer
    shown = viewed(output, right=lambda answer: answer.startswith("25"))
    assert [path["claims"][-1] for path in shown["paths"]] == [1, 0, 0, None, 0]
    assert [(one["text"], one["right"]) for one in shown["answers"]] == [("25", True), ("7", False), ("24", False)]
    assert shown["majority"] == 0
    apart = viewed(output, groups=lambda answers: [[place] for place in range(len(answers))])
    assert len(apart["answers"]) == 5


def test_paths_that_are_there_for_the_others_have_no_vote():
    """Would catch: a first answer that only paths gave whose answers do not count."""
    output = pages.run(n=5)
    for path, answer in zip(output.paths, ("7", "7", "7", "25", "25"), strict=True):
        path.answer, path.votes = answer, answer == "25"
    shown = viewed(output)
    assert shown["answers"][shown["majority"]]["text"] == "25" == shown["answers"][0]["text"]
    assert [path["votes"] for path in shown["paths"]] == [False, False, False, True, True]


def test_what_depends_on_the_schedule_is_left_out_on_request():
    """Would catch: seconds in a study's page, which is to be the same from one process or many."""
    output = pages.run()
    output.ledger.preemptions, output.ledger.pages_peak = 3, 17
    shown = viewed(output, reproducible=True)["ledger"]
    assert "seconds" not in shown and "preemptions" not in shown and "pages_peak" not in shown and shown["decoded"] == 100
    assert viewed(output)["ledger"]["seconds"] == {"reason": 1.5}


def test_a_similarity_that_is_no_number_is_none():
    """Would catch: a page that is no JSON because a similarity of the user's was NaN."""
    output = pages.run()
    output.blocks[0].routes[0][0].similarity = float("nan")
    assert viewed(output)["blocks"][0]["routes"][0][0] == [1, None]
    output.to_html()


@pytest.mark.parametrize("text", [pages.HOSTILE, "</script>", "<!--<script>", "\u2028\u2029", "\ud800"])
def test_text_ends_no_element_and_no_line(text):
    """Would catch: an answer that closes the element its data stands in."""
    written = plain_json({"text": text})
    assert written.isascii() and "<" not in written and json.loads(written) == {"text": text}
    html = page(text.replace("\ud800", ""), {"title": text}, [{"text": text}])
    assert len(re.findall("<script", html)) == len(re.findall("</script>", html)) == 3


def test_a_page_is_the_same_bytes_whenever_it_is_made():
    """Would catch: a time in a compressed run."""
    assert pages.run().to_html() == pages.run().to_html()
    packed = re.search('id="run-0">([^<]+)<', pages.run().to_html())[1]
    assert json.loads(gzip.decompress(base64.b64decode(packed))) == json.loads(json.dumps(viewed(pages.run())))


def test_the_policy_lets_nothing_run_but_the_page_s_own_script():
    """Would catch: a hash of other bytes than the element holds; a source that was let in."""
    html = pages.run().to_html()
    policy = re.search('Content-Security-Policy" content="([^"]+)"', html)[1]
    for name in ("script", "style"):
        held = re.search(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)[1]
        assert f"{name}-src 'sha256-{base64.b64encode(hashlib.sha256(held.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none';") and "http" not in policy and "unsafe" not in policy


def test_the_script_makes_no_markup_of_text():
    """Would catch: a convenient innerHTML."""
    source = "".join((FOLDER / name).read_text() for name in SCRIPTS + STYLES)
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch(", "url(",
                 "@import")
    assert [word for word in forbidden if word in source] == []


def test_show_writes_a_page_of_a_run_compressed_or_not(tmp_path, capsys):
    """Would catch: a study's runs that cannot be shown; a page that is printed, or half written."""
    output, file, packed = pages.run(), tmp_path / "run.json", tmp_path / "unit.json.gz"
    output.save(file)
    packed.write_bytes(gzip.compress(file.read_bytes()))
    for source in (file, packed):
        assert main(["show", str(source), "--html", str(tmp_path / "page.html")]) == 0
        assert (tmp_path / "page.html").read_text() == output.to_html() and capsys.readouterr().out == ""
    assert LeapOutput.load(packed).to_dict() == LeapOutput.load(file).to_dict()
    packed.write_bytes(packed.read_bytes()[:-20])
    for arguments, words in (([str(tmp_path)], "folder"), ([str(file), "--path", "1"], "--path"),
                             ([str(packed)], "not a saved")):
        assert main(["show", *arguments, "--html", str(tmp_path / "other.html")]) == 1
        assert words in capsys.readouterr().err and not (tmp_path / "other.html").exists()
