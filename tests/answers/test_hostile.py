"""Answers that are meant to hang, crash or deceive a grader, and the process that compares values."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapgen.answers import MathGrader, grader
from leapgen.answers.reading import read

pytest.importorskip("math_verify")

# Equal, and thousands of terms long.
HARD = ("(x+y+1)^{90}-(x+y-1)^{90}", "((x+y+1)^{45}-(x+y-1)^{45})((x+y+1)^{45}+(x+y-1)^{45})")
COMMANDS = ["\\frac", "\\sqrt", "\\sin", "\\log", "\\binom", "\\pi", "\\infty", "\\pm", "\\cup", "\\text", "\\left", "\\sum",
            "\\def", "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "\\{", "\\}", "\\cdot", "\\in", "\\circ", "\\%", "\\$"]
CHARACTERS = [*"0123456789xyeiE{}()[]^_+-*/=<>!,.;:%&$|'\"~ \n\t\0\x1b", "٣", "५", "²", "½", "∞", "漢", "\ud800", "√", "°"]
TERMS = st.lists(st.sampled_from(["1", "2", "x", "+", "-", "\\sqrt{2}", "(", ")", "^{2}", "\\pi ", ",", "=", "0.5"]),
                 max_size=6).map("".join)


def hostile(rng):
    """An answer that is not 7."""
    n, many, digit = rng.choice([3, 9, 40, 300, 10_000]), rng.choice([2, 5, 9, 30]), rng.randint(2, 9)
    return rng.choice([
        lambda: "10^{" * many + "10" + "}" * many,
        lambda: f"{digit}^{{{digit}^{{{digit}^{{{digit}}}}}}}",
        lambda: f"{digit}^{{{rng.randint(1, 10**rng.randint(1, 12))}}}",
        lambda: f"x^{{{rng.randint(1, 20_000)}}} + (x+{digit})^{{{rng.randint(1, 2_000)}}}",
        lambda: f"({digit}^{{99}})^{{{rng.randint(1, 999)}}}",
        lambda: f"{rng.randint(8, 10**rng.randint(1, 6))}" + "!" * rng.randint(1, 4),
        lambda: f"({digit}!)!" + "!" * many,
        lambda: f"\\binom{{{rng.randint(20, 99_999)}}}{{{rng.randint(2, 9_999)}}}",
        lambda: "{" * n, lambda: "{" * n + "7" + "}" * n + "8", lambda: "}" * n, lambda: "(" * n + "8" + ")" * n,
        lambda: "\\frac{1}{" * many + "2" + "}" * many, lambda: "\\frac{" * n + "1",
        lambda: "\\sqrt{" * many + "2" + "}" * many,
        lambda: "+".join(f"\\sqrt{{{i}}}" for i in range(2, 2 + many)),
        lambda: "\\sqrt{2+" * many + "\\sqrt3" + "}" * many,
        lambda: "\\sin(\\cos(" * (many // 2) + "x" + "))" * (many // 2),
        lambda: "e^{" * many + "x" + "}" * many,
        lambda: "(x+y+1)" * many, lambda: "(1+\\sqrt{2})^{" + str(rng.randint(50, 999)) + "}",
        lambda: "\\log_{" * many + "2" + "} 3" * many,
        lambda: "9" * n, lambda: "-" * n + "7" + "1" * (n % 7), lambda: "1" + "0" * n + ".5", lambda: "0." + "0" * n + "7",
        lambda: "7\0" + "1" * many, lambda: "٧" * many, lambda: "７" * many, lambda: "7" + "\u0660" * many,
        lambda: "word" * n, lambda: "mill egg " * n, lambda: "\\def\\a{\\a\\a}\\a" * many, lambda: "\\text{" * n + "7",
        lambda: "1," * n + "7", lambda: "\\pm " * many + "7", lambda: "\\{" * many + "1,7" + "\\}" * many,
        lambda: "\\{" + ",".join(map(str, range(many))) + "\\}", lambda: "\\cup" * n, lambda: "x=" * n + "y",
        lambda: "\\begin{pmatrix}" * many + "7" + "\\end{pmatrix}" * many, lambda: "1/" * n + "9", lambda: "1/0",
        lambda: "0/0", lambda: "\\frac{7}{0}", lambda: "\\sum_{n=1}^{10^{9}} n", lambda: "\\int_0^{\\infty} e^{e^x} dx",
        lambda: "\\lim_{x\\to 0} x^{x^x}",
        lambda: "x^2=x^2", lambda: "x^{" + str(digit) + "}+y^{" + str(many) + "}=z^{" + str(digit) + "}",
        lambda: "$" * n, lambda: " " * n + "8", lambda: "\n" * n, lambda: "7" + "\\%" * many + "7",
        lambda: "7 " * many + "8",
        lambda: "9" + "".join(rng.choices(CHARACTERS, k=many)) + "+8.5",
        lambda: "\\frac{" + "".join(rng.choices(COMMANDS + CHARACTERS, k=many)) + "\\cdot 91",
        lambda: "__import__('os').abort()", lambda: "x.__class__", lambda: "lambda: 7", lambda: "exec(7)",
    ])()


def test_hostile_answers_cost_little_in_threads_and_are_never_right():
    """Would catch: an evaluation that hangs on one path's ``10^{10^{10}}``; an answer that is right because the parser
    gave up half-way, rounded or divided by zero; a worker that only one thread can use.
    """
    math, rng = MathGrader(), random.Random(0)
    assert math.same("\\sqrt{8}", "2\\sqrt{2}")  # the process has started
    answers = [hostile(rng) for _ in range(1000)]

    def graded(answer):
        began = time.perf_counter()
        return math.same("7", answer), time.perf_counter() - began

    def against_another(i):
        began = time.perf_counter()
        math.same(answers[i], answers[i - 1]), math.same(answers[i], answers[i] + " + 1")
        return time.perf_counter() - began

    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(graded, answers))
        others = list(pool.map(against_another, range(0, 1000, 5)))
    longest, longest_two = max(seconds for _, seconds in verdicts), max(others)
    print(f"1,000 hostile answers, of which {sum(read(answer) is not None for answer in answers)} can be read: "
          f"{longest:.2f} s at most, {sum(seconds for _, seconds in verdicts):.1f} s in all; two pairs {longest_two:.2f} s")
    assert [answer for answer, (same, _) in zip(answers, verdicts, strict=True) if same] == []
    # Who had to wait for a busy machine is asked again, alone.
    slow = [answer for answer, (_, seconds) in zip(answers, verdicts, strict=True) if seconds > 1]
    fresh = MathGrader()
    fresh.same("\\sqrt{8}", "2\\sqrt{2}")
    for answer in slow:
        began = time.perf_counter()
        fresh.same("7", answer)
        assert time.perf_counter() - began < 1, answer
    assert longest < 5 and longest_two < 10 and len(slow) < 10


@settings(max_examples=500)
@given(st.lists(st.sampled_from(COMMANDS + CHARACTERS + ["\\frac{1}{2}", "x^{2}", "12", "cm"]), max_size=12).map("".join))
def test_reading_never_raises(answer):
    """Would catch: an IndexError on half a fraction, which would end a run that has been computed."""
    read(answer)


@settings(max_examples=60)
@given(TERMS, TERMS)
def test_the_relation_is_reflexive_and_symmetric(one, other):
    """Would catch: a verdict that changes with which answer is expected."""
    math = grader("math")
    assert math.same(one, one) and math.same(one, other) == math.same(other, one)


def test_what_is_not_settled_within_the_limit_is_not_the_same_and_others_go_on():
    """Would catch: one pair that holds up all threads; a worker that is lost with the pair that was too hard."""
    math = MathGrader()
    assert math.same("\\sqrt{8}", "2\\sqrt{2}")
    with ThreadPoolExecutor(2) as pool:
        hard = pool.submit(math.same, *HARD)
        easy = [pool.submit(math.same, f"\\sqrt{{{2 * i * i}}}", f"{i}\\sqrt{{2}}").result() for i in range(2, 5)]
    assert easy == [True, True, True] and hard.result() is False


def test_a_worker_that_is_killed_is_replaced():
    """Would catch: a machine short of memory that kills the worker, and every verdict after it wrong."""
    math = MathGrader()
    assert math.same("\\sqrt{8}", "2\\sqrt{2}")
    process = math._worker._connected()._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert math.same("\\sqrt{18}", "3\\sqrt{2}") and not math.same("\\sqrt{18}", "2\\sqrt{2}")
    assert math._worker._connected()._process.pid != process.pid


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


SCRIPT = """
import os, sys, threading, time
from leapgen.answers import grader
math = grader("math")
verdicts = []
thread = threading.Thread(target=lambda: verdicts.append(math.same("\\\\sqrt{8}", "2\\\\sqrt{2}")))
thread.start(); thread.join()  # the thread that started the worker ends before it
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_the_worker_dies_with_a_parent_that_is_killed():
    """Would catch: processes of 60 MB that stay behind after kill -9, even if a fork of the parent holds the pipe open."""
    code = SCRIPT + """
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print(math._worker._connected()._process.pid, os.popen("true").close(), flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    worker = int(parent.stdout.readline().split()[0])
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert alive(worker) and "libtorch" not in maps and "/torch/" not in maps
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGKILL)  # the fork
    parent.stdout.close()
    assert not alive(worker)


def test_the_worker_works_in_threads_and_forks_and_ends_quietly():
    """Would catch: SIGALRM in a thread that is not the main one; a fork that reads its parent's verdicts, or waits for a
    lock whose holder it does not have; a worker ended with its first thread, or by a fork that ends; warnings at
    the end.
    """
    code = SCRIPT + """
worker = math._worker._connected()._process.pid
if os.fork() == 0:
    sys.exit()  # without having asked
os.wait()
child = os.fork()
if child == 0:
    good = math.same("\\\\sqrt{18}", "3\\\\sqrt{2}") and not math.same("\\\\sqrt{18}", "2\\\\sqrt{2}")
    sys.exit(0 if good else 1)
assert math.same("\\\\sqrt{32}", "4\\\\sqrt{2}")
print(verdicts, os.waitpid(child, 0)[1], math._worker._connected()._process.pid == worker)
"""
    done = subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", code], capture_output=True, text=True,
                          timeout=60)
    assert (done.stdout, done.stderr) == ("[True] 0 True\n", "")
