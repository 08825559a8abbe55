"""The sentences of the protocol, files that bring others, and the prompt a question becomes."""

import copy
import json
import re
import unicodedata

import pytest
import tiny_tokenizer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from leapgen.config import LeapConfig
from leapgen.protocol.chat import prompt_tokens, question_of
from leapgen.protocol.prompts import TAGS, PromptSet, example_answers, warn_of_example
from leapgen.protocol.text import Vocabulary, decode

PROMPTS = PromptSet()
PLAIN, EXPLAINED = LeapConfig.independent(), LeapConfig()
LATEX = "Let $f(x)=\\frac{x}{2}$, {a} ∈ {question} {0} {{x}} %s {{ 7*7 }}. Find \\boxed{f(2)}\n\nand f(4)."


def comment(prompts, summaries):
    frame = prompts.comment(len(summaries))
    assert len(frame) == len(summaries) + 1
    return frame[0] + "".join(summary + piece for summary, piece in zip(summaries, frame[1:], strict=True))


# -- the sentences --------------------------------------------------------------------------------------------------------


def test_there_are_seven_triggers_and_six_lead_ins_that_open_a_summary():
    """Would catch: fewer sentences than the paper draws from, one there twice, a lead-in whose tag was lost."""
    assert (len(set(PROMPTS.triggers)), len(set(PROMPTS.lead_ins))) == (7, 6)
    assert (len(PROMPTS.triggers), len(PROMPTS.lead_ins)) == (7, 6)
    assert all(lead_in.startswith("<summarize> ") for lead_in in PROMPTS.lead_ins)
    assert not any(tag in text for tag in TAGS for text in PROMPTS.triggers)
    assert not any(tag in lead_in[len("<summarize>") :] for tag in TAGS for lead_in in PROMPTS.lead_ins)


def test_the_explanation_explains_every_tag_and_the_plain_prompt_names_none():
    """Would catch: a baseline that is told of peers, or a model that is shown tags it has never been told of."""
    assert all(tag in PROMPTS.explanation for tag in TAGS)
    assert 'Peer 1: "' in PROMPTS.explanation and '\nPeer 2: "' in PROMPTS.explanation
    assert not any(tag in PROMPTS.plain + PROMPTS.forced_answer + PROMPTS.answer_lead for tag in TAGS)
    assert PROMPTS.explanation.count("{question}") == PROMPTS.plain.count("{question}") == 1
    assert PROMPTS.answer_lead.endswith("\\boxed{")


def test_the_explanations_example_has_no_answer_a_model_could_give_for_its_own():
    """Would catch: ``\\boxed{15}`` in the example, which small models answer to any question."""
    assert example_answers(PROMPTS) == frozenset()
    example = PROMPTS.explanation.split("{question}")[0]
    assert "boxed" not in example and not re.search("[0-9]", re.sub("Peer [12]", "Peer", example))


@pytest.mark.parametrize(("explanation", "answers"), [
    ("So \\boxed{15}.\n\n{question}", {"15"}), ("{question} Like \\boxed{$042$}, \\boxed{x} or \\fbox{}", {"42", "x"}),
    ("It ends so:\nAnswer: (C)\n\n{question}\nPut it within \\boxed{}.", {"c"}), ("{question} \\boxed{...}", set()),
    ("Add 3 and 4. {question}", set()), ("\\boxed{{question}}", set()),
])
def test_the_answers_of_a_sets_example_are_found(explanation, answers):
    """Would catch: the place for the answer, or the question itself, taken for one; one of several missed."""
    assert example_answers(PromptSet(explanation=explanation)) == answers


def test_a_vote_for_the_examples_answer_is_told_and_no_other(caplog):
    """Would catch: a published set's example answer that wins a vote without anybody being told."""
    prompts = PromptSet(explanation="So \\boxed{15}. {question}")
    for vote in ("51", None, "question"):
        warn_of_example(vote, prompts)
    warn_of_example("15", PROMPTS)
    assert not caplog.records
    warn_of_example("015", prompts)
    assert "'015'" in caplog.text and "example" in caplog.text


@pytest.mark.parametrize(("summaries", "expected"), [
    (["x = 2"], '<comment> Peer 1: "x = 2" </comment>\n\nGo on.'),
    (["x = 2", "no"], '<comment> Peer 1: "x = 2"\nPeer 2: "no" </comment>\n\nGo on.'),
    (["a", "b", "c"], '<comment> Peer 1: "a"\nPeer 2: "b"\nPeer 3: "c" </comment>\n\nGo on.'),
    ([], "<comment> Nobody spoke. </comment>\n\nGo on."),
])
def test_comments_arrive_in_the_form_that_published_checkpoints_know(summaries, expected):
    """Would catch: peers numbered from 0, a blank between peers, a comment left open, a nudge before the comments."""
    assert comment(PromptSet(nudge="Go on.", no_comments="Nobody spoke."), summaries) == expected


@pytest.mark.parametrize(("name", "value"), [
    ("triggers", []), ("triggers", "abc"), ("triggers", ["a", " "]), ("triggers", ["a", 3]), ("triggers", None),
    ("lead_ins", ()), ("lead_ins", ["In short,"]), ("lead_ins", ["So <summarize> I"]), ("lead_ins", "<summarize>"),
    ("plain", "no place for it"), ("explanation", ""), ("plain", "{ question }"),
])
def test_a_part_of_the_wrong_form_is_refused_by_name(name, value):
    """Would catch: a set that fails at the first block of a long run, or that never shows the model its question."""
    with pytest.raises(ValueError, match=name.replace("lead_ins", "lead[-_]in")):
        PromptSet(**{name: value})


@pytest.mark.parametrize("name", ["nudge", "no_comments", "explanation", "plain", "start_over", "opening", "forced_answer",
                                  "answer_lead"])
def test_a_sentence_that_is_no_string_is_refused_by_name(name):
    """Would catch: ``"nudge": null`` in a JSON file that puts the word None into every path, or fails in the last round."""
    for value in (None, 5, ["{question}"]):
        with pytest.raises(ValueError, match=name):
            PromptSet(**{name: value})


def test_a_trigger_and_a_lead_in_end_without_white_space():
    """Would catch: a double space between trigger and lead-in, or a trailing one that spoils the first summary token."""
    prompts = PromptSet(triggers=["Wait. "], lead_ins=["<summarize> So far\n"])
    assert (prompts.triggers, prompts.lead_ins) == (("Wait.",), ("<summarize> So far",))


# -- files ----------------------------------------------------------------------------------------------------------------


def write(folder, text, name="prompts.py"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_json_file_gives_the_fields_it_holds_and_leaves_the_others(tmp_path):
    """Would catch: a partial file that empties the other parts, lists that stay lists, text read in the wrong encoding."""
    fields = {"triggers": ["Pausé."], "nudge": "Weiter „so“.", "plain": "Q: {question}"}
    prompts = PromptSet.load(write(tmp_path, json.dumps(fields, ensure_ascii=False), "mine.json"))
    assert prompts == PromptSet(triggers=("Pausé.",), nudge="Weiter „so“.", plain="Q: {question}")
    assert prompts.lead_ins == PROMPTS.lead_ins


@pytest.mark.parametrize(("text", "said"), [
    ('{"trigers": ["a"]}', r"trigers.*triggers"), ("[1]", "object"), ("{", "JSON"), ("", "JSON"),
    ('{"plain": "x"}', "question"), ('{"lead_ins": ["x"]}', "<summarize>"),
])
def test_a_json_file_that_cannot_be_used_says_why(tmp_path, text, said):
    """Would catch: a misspelt field ignored in silence, so that a run uses sentences its author thinks are replaced."""
    with pytest.raises(ValueError, match=said):
        PromptSet.load(write(tmp_path, text, "mine.json"))


PUBLISHED = '''
"""Prompts."""
import os, package_that_does_not_exist
open({marker!r}, "w").write("the file ran")
raise SystemExit(3)
summary_triggers = ["Hmm, let me sum up.", "Time to" " share."]
LEADS = ("<summarize> In brief,", " <summarize> So")
SHORT = {{"a": 1}}
nudge = "Compare."
computed = "a".join(LEADS)
others = [f"{{x}}" for x in LEADS]
TEMPLATE = "Q {{question}}"
'''


def test_a_python_file_is_read_and_never_run(tmp_path):
    """Would catch: ``import`` or ``exec`` of a downloaded file; lists not told by their form; f-strings that stop it."""
    marker = tmp_path / "ran"
    prompts = PromptSet.load(write(tmp_path, PUBLISHED.format(marker=str(marker))))
    assert not marker.exists()
    assert prompts == PromptSet(triggers=("Hmm, let me sum up.", "Time to share."), nudge="Compare.",
                                lead_ins=("<summarize> In brief,", " <summarize> So"))


def test_names_say_which_constant_is_which(tmp_path):
    """Would catch: a mapping read the wrong way round, or one that loses to what is told by form."""
    text = PUBLISHED.format(marker=str(tmp_path / "ran")) + "OTHER = ['Pause.']\nBETTER = 'Think.'"
    prompts = PromptSet.load(write(tmp_path, text), names={"plain": "TEMPLATE", "triggers": "OTHER", "nudge": "BETTER"})
    assert (prompts.plain, prompts.triggers, prompts.nudge) == ("Q {question}", ("Pause.",), "Think.")
    assert prompts.lead_ins == ("<summarize> In brief,", " <summarize> So")


def test_a_python_file_without_prompts_says_what_it_holds(tmp_path):
    """Would catch: the default sentences used in silence in place of the file's."""
    with pytest.raises(ValueError, match=r"WORDS.*names="):
        PromptSet.load(write(tmp_path, "WORDS = ['a', 'b']\nN = 3\ndef f(): nudge = 'x'"))


def test_a_name_that_the_file_does_not_assign_or_no_set_has_is_refused(tmp_path):
    """Would catch: a KeyError, or a mapping that is silently without effect."""
    path = write(tmp_path, "WORDS = ['a']")
    with pytest.raises(ValueError, match=r"WORD'.*WORDS"):
        PromptSet.load(path, names={"triggers": "WORD"})
    with pytest.raises(ValueError, match=r"trigers.*triggers"):
        PromptSet.load(path, names={"trigers": "WORDS"})


def test_annotated_constants_are_seen_too(tmp_path):
    """Would catch: ``nudge: str = ...`` passed over, so that the default sentence is used in silence."""
    path = write(tmp_path, "from __future__ import annotations\ntriggers: list[str] = ['Pause.']\nnudge: str = 'Think.'")
    assert PromptSet.load(path) == PromptSet(triggers=("Pause.",), nudge="Think.")


@pytest.mark.parametrize("text", ["def f(:\n", "\0", "nudge = 'a'\nodd = {[1]: 2}"], ids=["syntax", "null", "unhashable"])
def test_a_python_file_that_cannot_be_read_is_named_or_read_around(tmp_path, text):
    """Would catch: a SyntaxError or TypeError that looks like one of ours, without the file's name."""
    path = write(tmp_path, text)
    try:
        assert PromptSet.load(path).nudge == "a"
    except ValueError as error:
        assert str(path) in str(error)


# -- the prompt -------------------------------------------------------------------------------------------------------------


def text_of(tokenizer, prompt, leap, prompts=PROMPTS, think_start=""):
    return decode(tokenizer, prompt_tokens(tokenizer, prompt, leap, prompts, think_start))


def turns(*messages, last="<|im_start|>assistant\n"):
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages) + last


def test_the_plain_prompt_is_the_question_and_the_request_and_nothing_else():
    """Would catch: a baseline or LeaP-T model that gets the explanation, the opening or a second thinking marker."""
    tokenizer = tiny_tokenizer.byte_level(thinking=True)
    expected = turns(("user", PROMPTS.plain.replace("{question}", "2 + 2?")))
    for leap in (PLAIN, LeapConfig.leap_t()):
        assert text_of(tokenizer, "2 + 2?", leap, think_start="<think>") == expected


def test_the_explained_prompt_has_the_explanation_the_marker_and_the_opening():
    """Would catch: a prefilled opening outside the thinking, or no opening at all."""
    user = ("user", PROMPTS.explanation.replace("{question}", "2 + 2?"))
    plain, thinking = tiny_tokenizer.byte_level(), tiny_tokenizer.byte_level(thinking=True)
    assert text_of(plain, "2 + 2?", EXPLAINED) == turns(user) + PROMPTS.opening
    assert text_of(thinking, "2 + 2?", EXPLAINED, think_start="<think>") == turns(user) + "<think>\n" + PROMPTS.opening
    tokens = prompt_tokens(thinking, "2 + 2?", EXPLAINED, PROMPTS, "<think>")
    assert tokens.count(thinking.convert_tokens_to_ids("<think>")) == 1
    assert tokens.count(thinking.convert_tokens_to_ids("<|im_start|>")) == 2


@pytest.mark.parametrize("ending", ["<think>", "<think>\n", "<think>\n\n"])
def test_a_template_that_opens_the_thinking_itself_gets_no_second_marker(ending):
    """Would catch: ``<think>\\n<think>`` with DeepSeek-R1 and QwQ templates."""
    tokenizer = copy.deepcopy(tiny_tokenizer.byte_level(thinking=True))
    # templates drop a line break that follows a tag, and keep those before it
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{%", f"assistant\n{ending}{{%")
    text = text_of(tokenizer, "2 + 2?", EXPLAINED, think_start="<think>")
    assert text.endswith(f"assistant\n{ending}{PROMPTS.opening}") and text.count("<think>") == 1
    assert text_of(tokenizer, "2 + 2?", PLAIN, think_start="<think>").endswith(f"assistant\n{ending}")


def test_without_an_opening_no_marker_is_added():
    """Would catch: a set with ``opening=""`` that prefills a thinking marker all the same."""
    text = text_of(tiny_tokenizer.byte_level(thinking=True), "2 + 2?", EXPLAINED, PromptSet(opening=""), "<think>")
    assert text.endswith("<|im_start|>assistant\n")


def test_chat_messages_keep_their_system_message_and_earlier_turns():
    """Would catch: a chat cut to its last message, an earlier question wrapped too, the caller's messages changed."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi {question}"},
                {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "2 + 2?"}]
    before = copy.deepcopy(messages)
    expected = turns(("system", "Be brief."), ("user", "Hi {question}"), ("assistant", "Hello."),
                     ("user", PROMPTS.plain.replace("{question}", "2 + 2?")))
    assert text_of(tiny_tokenizer.byte_level(), messages, PLAIN) == expected
    assert text_of(tiny_tokenizer.byte_level(), tuple(messages), PLAIN) == expected
    assert messages == before
    assert question_of(messages) == question_of("2 + 2?") == "2 + 2?"


def test_a_tokenizer_without_a_template_gets_the_text_as_it_is():
    """Would catch: an error from ``apply_chat_template`` with base models; parts run together without a blank line."""
    tokenizer = tiny_tokenizer.sentencepiece_like()
    assert text_of(tokenizer, "2 + 2?", PLAIN) == PROMPTS.plain.replace("{question}", "2 + 2?") + "\n\n"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    explained = PROMPTS.explanation.replace("{question}", "2 + 2?")
    assert text_of(tokenizer, messages, EXPLAINED) == f"Be brief.\n\n{explained}\n\n{PROMPTS.opening}"


def test_who_may_start_over_is_told_so_at_the_end_of_the_prompt():
    """Would catch: the retry baseline run with the plain prompt; the sentence told to those it is not meant for."""
    tokenizer = tiny_tokenizer.byte_level()
    retry, plain, explained = (tokenizer.decode(prompt_tokens(tokenizer, "2 + 2?", preset(), PROMPTS, ""))
                               for preset in (LeapConfig.retry, LeapConfig.independent, LeapConfig.paper))
    asked = PROMPTS.plain.replace("{question}", "2 + 2?") + PROMPTS.start_over
    assert asked in retry and retry.replace(PROMPTS.start_over, "") == plain
    assert PROMPTS.start_over not in plain + explained


@pytest.mark.parametrize("template", [None, "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"])
def test_there_is_one_beginning_of_sequence_token(template):
    """Would catch: none with a base model, or two where template and tokenizer both put one (Llama, DeepSeek)."""
    backend = Tokenizer.from_str(tiny_tokenizer.byte_level().backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", chat_template=template)
    for leap in (PLAIN, EXPLAINED):
        tokens = prompt_tokens(tokenizer, "2 + 2?", leap, PROMPTS, "")
        assert tokens[0] == 1 and tokens.count(1) == 1


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer.byte_level, tiny_tokenizer.sentencepiece_like], ids=["chat", "base"])
@pytest.mark.parametrize("leap", [PLAIN, EXPLAINED], ids=["plain", "explained"])
def test_questions_full_of_braces_survive(tokenizer, leap):
    """Would catch: ``str.format``, ``%`` or a template engine let loose on a question in LaTeX."""
    assert LATEX in text_of(tokenizer(), LATEX, leap)
    assert LATEX in text_of(tokenizer(), [{"role": "user", "content": LATEX}], leap)


@settings(max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_any_question_survives(question):
    """Would catch: a character the way to the tokens changes (escapes, normalization, trimming)."""
    expected = turns(("user", PROMPTS.plain.replace("{question}", question)))
    assert text_of(tiny_tokenizer.byte_level(), question, PLAIN) == expected


# -- what a message spells --------------------------------------------------------------------------------------------------


TEMPLATES = {
    "as it is": tiny_tokenizer.CHAT_TEMPLATE,
    "trimmed": "<s>" + tiny_tokenizer.CHAT_TEMPLATE.replace("m['content']", "m['content'] | trim"),
    "escaped": tiny_tokenizer.CHAT_TEMPLATE.replace("m['content']", "m['content'] | tojson"),
    "without reasoning": tiny_tokenizer.CHAT_TEMPLATE.replace("m['content']", "m['content'].split('</think>')[-1]"),
    "none": None,
}
SPELLED = [*tiny_tokenizer.SPECIAL, "<think>", "</think>", "<summarize>", "<|im_", "end|>", "s>", "</", "hidden0hidden",
           "hidden", " ", "\n", "x", "漢", "2 + 2?", "\uff1c/think\uff1e", "\uff1c|im_end|\uff1e"]
CONTENT = st.lists(st.sampled_from(SPELLED), min_size=1, max_size=6).map("".join).filter(str.strip)
TOKENIZERS = {"byte-level": tiny_tokenizer.byte_level(), "thinking": tiny_tokenizer.byte_level(thinking=True),
              "sentencepiece": tiny_tokenizer.sentencepiece_like(), "normalizing": tiny_tokenizer.normalizing()}


def with_template(tokenizer, template):
    twin = copy.deepcopy(tokenizer)
    twin.chat_template = template
    return twin


every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def control_ids(tokenizer, tokens):
    return [token for token in tokens if token in Vocabulary(tokenizer).control.values()]


@every_template
@every_tokenizer
@settings(max_examples=30)
@given(system=CONTENT, question=CONTENT, leap=st.sampled_from([PLAIN, EXPLAINED]))
def test_what_a_message_spells_is_text_and_what_the_template_spells_is_a_token(template, name, system, question, leap):
    """Would catch: a question with ``<|im_end|>`` in it that ends the user's turn and speaks as the system; one that loses
    those words; a template's own tokens spelled out; a template that cannot be used with such a question.
    """
    tokenizer = with_template(TOKENIZERS[name], template)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    harmless = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]
    tokens = prompt_tokens(tokenizer, messages, leap, PROMPTS, "<think>")
    expected = prompt_tokens(tokenizer, harmless, leap, PROMPTS, "<think>")
    assert control_ids(tokenizer, tokens) == control_ids(tokenizer, expected)
    if template == tiny_tokenizer.CHAT_TEMPLATE:
        asked = (PROMPTS.explanation if leap.explain else PROMPTS.plain).replace("{question}", question)
        expected = turns(("system", system), ("user", asked)) + ("<think>\n" + PROMPTS.opening if leap.explain else "")
        expected = unicodedata.normalize("NFKC", expected) if name == "normalizing" else expected
        read = decode(tokenizer, tokens)
        # SentencePiece puts a space after the template's own tokens
        assert read == expected or (name == "sentencepiece" and read.replace(" ", "") == expected.replace(" ", ""))


def tokens_as_before(tokenizer, messages, prompts):
    """Template and text in one go, which is what a prompt that spells no special token is."""
    messages = [*messages[:-1], {"role": "user", "content": prompts.plain.replace("{question}", messages[-1]["content"])}]
    if tokenizer.chat_template is None:
        return tokenizer.encode("".join(m["content"] + "\n\n" for m in messages))
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


@every_template
@every_tokenizer
@settings(max_examples=30)
@given(system=st.text(max_size=9), question=st.text(min_size=1, max_size=20).filter(str.strip))
def test_a_prompt_without_special_tokens_has_the_ids_of_template_and_text_in_one_go(template, name, system, question):
    """Would catch: tokens at the edge of a question that no model was trained on, for every prompt there is."""
    tokenizer = with_template(TOKENIZERS[name], template)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    assume(not control_ids(tokenizer, tokenizer.encode(system + " " + question, add_special_tokens=False)))
    assert prompt_tokens(tokenizer, messages, PLAIN, PROMPTS, "") == tokens_as_before(tokenizer, messages, PROMPTS)


def test_an_earlier_turn_of_the_assistant_keeps_its_thinking_and_nothing_else():
    """Would catch: a template that no longer finds the reasoning it leaves out, an assistant's turn that opens another."""
    tokenizer = with_template(TOKENIZERS["thinking"], TEMPLATES["without reasoning"])
    messages = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "<think>\nHm.</think>Two.<|im_end|>"},
                {"role": "user", "content": "3?</think>"}]
    assert text_of(tokenizer, messages, PLAIN) == turns(
        ("user", "2?"), ("assistant", "Two.<|im_end|>"), ("user", PROMPTS.plain.replace("{question}", "3?</think>")))
    tokens = prompt_tokens(with_template(tokenizer, TEMPLATES["as it is"]), messages, PLAIN, PROMPTS, "")
    assert tokens.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
    assert tokens.count(tokenizer.convert_tokens_to_ids("</think>")) == 1
    assert tokens.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3


def test_a_prompt_sets_own_special_tokens_stay_special():
    """Would catch: a set for a model that has to be told of ``<think>`` in its prompt, spelled out letter by letter."""
    tokenizer = TOKENIZERS["thinking"]
    prompts = PromptSet(plain="Use <think>. {question} </think>")
    tokens = prompt_tokens(tokenizer, "Is <think> a tag?", PLAIN, prompts, "")
    assert tokens.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
    assert decode(tokenizer, tokens) == turns(("user", "Use <think>. Is <think> a tag? </think>"))


def test_parts_of_a_message_are_text_too():
    """Would catch: only contents that are strings looked at (earlier turns may have parts, or call tools)."""
    tokenizer = with_template(TOKENIZERS["thinking"], "{% for m in messages %}{{ m['content'] if m['content'] is string "
                              "else m['content'][0]['text'] + m['name'] }}<|im_end|>{% endfor %}")
    messages = [{"role": "user", "name": "</s>", "content": [{"type": "text", "text": "a<|im_end|>"}]},
                {"role": "user", "content": "b"}]
    tokens = prompt_tokens(tokenizer, messages, PLAIN, PROMPTS, "")
    assert decode(tokenizer, tokens).startswith("a<|im_end|></s><|im_end|>")
    assert control_ids(tokenizer, tokens) == [tokenizer.convert_tokens_to_ids("<|im_end|>")] * 2


@pytest.mark.parametrize("prompt", ["", "  \n", [{"role": "user", "content": " "}]])
def test_an_empty_question_is_refused(prompt):
    """Would catch: a run over a question that a broken data file left out."""
    with pytest.raises(ValueError, match="empty"):
        prompt_tokens(tiny_tokenizer.byte_level(), prompt, PLAIN, PROMPTS, "")


@pytest.mark.parametrize("prompt", [
    [], [{"role": "system", "content": "Be brief."}],
    [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
    [{"role": "user"}], [{"role": "user", "content": None}], [{"role": "user", "content": [{"type": "text", "text": "2?"}]}],
    [{"content": "2 + 2?"}],
])
def test_a_chat_that_does_not_end_with_a_users_text_is_refused(prompt):
    """Would catch: the explanation wrapped around a system message or an answer, or a KeyError."""
    with pytest.raises(ValueError, match=r"must end with a user message.*'role': 'user'"):
        prompt_tokens(tiny_tokenizer.byte_level(), prompt, PLAIN, PROMPTS, "")
