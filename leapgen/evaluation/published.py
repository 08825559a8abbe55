"""Numbers that arXiv 2505.07787 prints, in percent unless said otherwise: what a run is put beside.

Only what stands in the paper's text and tables; most figures print none. Several cannot arise from the number of answers
that is stated (32.00, 66.86 and 65.33 on AIME 2024, 51.50 and 14.00 on AIMO 2025, 58.00 and 57.42 on GPQA): they are targets
within a tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping

TASKS = ("aime24", "aimo25", "aime25", "gpqa-diamond")
MODELS = {"R1-1.5B": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "R1-7B": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
          "R1-14B": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "QwQ-32B": "Qwen/QwQ-32B",
          "LeaP-T-1.5B": "Learning-from-Peers/LeaP-T-1.5B", "LeaP-T-7B": "Learning-from-Peers/LeaP-T-7B",
          "LeaP-T-14B": "Learning-from-Peers/LeaP-T-14B"}

Numbers = Mapping[str, float]  # by row of a table or figure

# Tables 1 and 5: Pass@1 by data set and model.
ROUTED = ("independent", *(f"{router} top-{k}" for router in ("random", "clustered", "hybrid", "dispersed") for k in (2, 4)))
_PASS_AT_1 = {
    ("aime24", "R1-7B"): (51.35, 58.65, 60.83, 56.15, 59.27, 59.17, 61.67, 60.31, 60.52),
    ("aime24", "R1-14B"): (64.47, 72.60, 75.83, 72.08, 71.04, 71.77, 74.48, 71.15, 77.29),
    ("aime24", "QwQ-32B"): (79.69, 80.21, 81.67, 78.96, 81.56, 81.88, 81.67, 81.56, 85.83),
    ("aimo25", "R1-7B"): (37.50, 40.62, 42.81, 37.81, 39.06, 41.88, 40.31, 39.06, 45.00),
    ("aimo25", "R1-14B"): (46.87, 52.50, 53.13, 51.50, 55.31, 51.88, 52.19, 49.38, 51.25),
    ("aimo25", "QwQ-32B"): (63.75, 63.75, 68.44, 63.75, 65.63, 64.06, 64.69, 67.19, 67.19),
    ("aime25", "R1-7B"): (37.81, 38.02, 39.17, 36.98, 37.50, 37.19, 39.27, 40.93, 38.44),
    ("aime25", "R1-14B"): (48.64, 48.96, 52.29, 50.42, 51.88, 54.38, 54.38, 50.31, 54.17),
    ("aime25", "QwQ-32B"): (68.13, 71.35, 71.98, 68.85, 71.35, 71.04, 72.50, 70.83, 71.67),
    ("gpqa-diamond", "R1-7B"): (46.91, 52.96, 52.65, 52.97, 52.65, 51.83, 53.47, 53.28, 55.56),
    ("gpqa-diamond", "R1-14B"): (53.47, 54.99, 57.26, 54.80, 58.33, 54.42, 57.89, 55.68, 55.05),
    ("gpqa-diamond", "QwQ-32B"): (58.00, 64.65, 64.89, 65.03, 65.28, 61.87, 65.21, 66.16, 63.32),
    ("average", "R1-7B"): (43.39, 47.56, 48.87, 45.98, 47.12, 47.52, 48.68, 48.40, 49.88),
    ("average", "R1-14B"): (53.36, 57.26, 59.63, 57.20, 59.14, 58.11, 59.74, 56.63, 59.44),
    ("average", "QwQ-32B"): (67.39, 69.99, 71.75, 69.15, 70.96, 69.71, 71.02, 71.44, 72.00),
}
R1_671B = {"aime24": 79.8, "aimo25": 65.0, "aime25": 70.0, "gpqa-diamond": 71.5, "average": 71.58}

# Tables 6 and 7: Cons@N of independent paths by majority and by the shortest majority, then of LeaP by majority.
VOTED = ("independent", "dispersed top-2", "dispersed top-4", "hybrid top-2", "hybrid top-4")
_VOTES = {
    ("mathematics", "R1-7B"): (60.00, 60.00, 62.86, 61.43, 61.43, 62.86),
    ("mathematics", "R1-14B"): (68.57, 70.00, 68.57, 70.00, 70.00, 71.43),
    ("mathematics", "QwQ-32B"): (78.57, 80.00, 80.00, 80.00, 82.86, 81.43),
    ("gpqa-diamond", "R1-7B"): (50.00, 51.52, 59.60, 58.59, 56.57, 60.10),
    ("gpqa-diamond", "R1-14B"): (55.05, 55.05, 59.60, 59.60, 60.61, 61.11),
    ("gpqa-diamond", "QwQ-32B"): (60.61, 60.10, 67.68, 63.64, 63.13, 68.18),
    ("aime24", "R1-7B"): (73.33, 73.33, 76.67, 73.33, 80.00, 80.00),
    ("aime24", "R1-14B"): (80.00, 80.00, 80.00, 83.33, 80.00, 80.00),
    ("aime24", "QwQ-32B"): (83.33, 83.33, 86.67, 86.67, 90.00, 86.67),
    ("aimo25", "R1-7B"): (50.00, 50.00, 50.00, 50.00, 50.00, 50.00),
    ("aimo25", "R1-14B"): (60.00, 60.00, 60.00, 60.00, 60.00, 60.00),
    ("aimo25", "QwQ-32B"): (70.00, 80.00, 70.00, 70.00, 70.00, 70.00),
    ("aime25", "R1-7B"): (50.00, 50.00, 53.33, 53.33, 46.67, 50.00),
    ("aime25", "R1-14B"): (60.00, 70.00, 60.00, 60.00, 63.33, 66.67),
    ("aime25", "QwQ-32B"): (76.67, 70.00, 76.67, 76.67, 80.00, 80.00),
}

# Table 2: Pass@1 and Cons@32 of the base, the base after plain SFT, the base with LeaP, and LeaP-T.
TRAINED = ("base", "sft", "base with LeaP", "LeaP-T with LeaP")
_LEAP_T = {
    ("aime24", "R1-1.5B"): (32.00, 50.00, 31.04, 56.67, 34.90, 46.67, 37.08, 56.67),
    ("aime24", "R1-7B"): (51.35, 73.33, 51.56, 80.00, 60.52, 76.67, 64.38, 80.00),
    ("aime24", "R1-14B"): (64.47, 80.00, 65.63, 83.33, 77.29, 83.33, 76.46, 83.33),
    ("aime25", "R1-1.5B"): (24.69, 30.00, 23.23, 36.67, 26.46, 30.00, 26.67, 40.00),
    ("aime25", "R1-7B"): (37.81, 50.00, 35.73, 53.33, 38.44, 53.33, 41.25, 56.67),
    ("aime25", "R1-14B"): (48.64, 60.00, 46.88, 63.33, 54.17, 60.00, 54.27, 70.00),
    ("aimo25", "R1-1.5B"): (14.00, 30.00, 15.31, 30.00, 15.63, 30.00, 20.31, 40.00),
    ("aimo25", "R1-7B"): (37.50, 50.00, 33.75, 40.00, 45.00, 50.00, 44.06, 60.00),
    ("aimo25", "R1-14B"): (46.87, 60.00, 45.63, 60.00, 51.25, 60.00, 52.50, 60.00),
    ("average", "R1-1.5B"): (23.56, 36.67, 23.19, 41.11, 25.66, 35.56, 28.02, 45.56),
    ("average", "R1-7B"): (42.22, 57.78, 40.35, 57.78, 47.99, 60.00, 49.90, 65.56),
    ("average", "R1-14B"): (53.33, 66.67, 52.71, 68.89, 60.90, 67.78, 61.08, 71.11),
}

# Table 3: R1-14B, one block at 2K or 4K tokens.
_SINGLE = {"aime24": (64.47, 66.25, 68.13), "aimo25": (46.87, 49.38, 50.94), "aime25": (48.64, 45.83, 47.29),
           "gpqa-diamond": (53.47, 55.11, 57.42), "average": (53.86, 54.14, 55.95)}
# Table 4: more of it on AIME 2024. The text at hand has lost the headings of its six columns. Told elsewhere: 2, 4, 8, 16
# paths mixed with top-2, 16 with top-4; the second is the setting of Table 3. Of the fifth nothing is known.
_MIXED = {"2K": (65.21, 66.25, 65.73, 67.92, 66.46, 66.86), "4K": (65.73, 68.13, 68.85, 69.48, 67.92, 69.27)}

MIXED = {f"{at}, {paths} paths, top-{k}": row[column] for at, row in _MIXED.items()
         for column, paths, k in ((0, 2, 2), (2, 8, 2), (3, 16, 2), (5, 16, 4))}
MIXED |= {f"{at}, column 5 of Table 4": row[4] for at, row in _MIXED.items()}

Columns = Mapping[str, Numbers]  # what is measured: numbers by row
Conditions = Mapping[tuple[str, str], Columns]  # by data set and model


def _one(task: str, model: str, column: str, numbers: Numbers) -> Conditions:
    return {(task, model): {column: numbers}}


PASS_AT_1: Conditions = {where: {"Pass@1": dict(zip(ROUTED, values, strict=True))} for where, values in _PASS_AT_1.items()}
VOTES: Conditions = {where: {"Cons@N": dict(zip(VOTED, (values[0], *values[2:]), strict=True)),
                             "shortest": {"independent": values[1]}} for where, values in _VOTES.items()}
LEAP_T: Conditions = {where: {"Pass@1": dict(zip(TRAINED, values[::2], strict=True)),
                              "Cons@N": dict(zip(TRAINED, values[1::2], strict=True))} for where, values in _LEAP_T.items()}
SINGLE: Conditions = {(task, "R1-14B"): {"Pass@1": dict(zip(("independent", "2K", "4K"), values, strict=True))}
                      for task, values in _SINGLE.items()}
SINGLE_MIXED = _one("aime24", "R1-14B", "Pass@1", MIXED)

# Figures 1, 4 and 17: what a bad beginning costs in points, alone and with peers; Pass@1 from good beginnings.
GAPS: Conditions = {
    ("aime24", model): {"gap": {"bad, alone": alone, "bad, with peers": peers}}
    for model, alone, peers in (("R1-7B", 18.95, 10.16), ("R1-14B", 19.88, 7.81), ("QwQ-32B", 18.75, 11.80))}
GOOD = _one("aime24", "R1-14B", "Pass@1", {"good, alone": 74.38, "good, with peers": 87.50})

# Figure 7 and 28a: the interval in tokens. Figure 8: peers that a path reads.
GRANULARITY: Conditions = {
    ("aime24", model): {"Pass@1": dict(zip(("2048", "3072", "4096", "6144"), values, strict=True))}
    for model, values in (("R1-7B", (64.48, 55.94, 60.31, 53.44)), ("R1-14B", (73.96, 73.13, 71.15, 69.38)),
                          ("LeaP-T-7B", (66.35, 65.52, 64.38, 61.25)))}
TRAFFIC = _one("aime24", "R1-14B", "Pass@1", {"1": 67.4, "2": 71.2, "4": 77.3})

# Figure 9: kinds of communication by block.
TYPES: Conditions = {("aime24", "QwQ-32B"): {
    kind: dict(zip(("1", "2", "3", "4", "5", "6"), values, strict=True)) for kind, values in (
        ("consistent", (56.8, 49.3, 51.4, 61.5, 47.1, 26.5)), ("unaffected", (30.3, 32.7, 33.5, 27.4, 40.2, 67.7)),
        ("influenced", (12.9, 17.9, 15.1, 11.1, 12.7, 5.9)))}}

# Figures 10 and 29: where the one block is, in units of 2,048 tokens; "every" is LeaP with all its blocks.
POSITION: Conditions = {
    **_one("aime24", "R1-14B", "Pass@1", {"independent": 64.79, "1": 66.25, "2": 69.48, "3": 68.23, "4": 66.25, "5": 65.94,
                                          "6": 65.33, "every": 71.15}),
    **_one("aime24", "LeaP-T-14B", "Pass@1", {"1": 68.85, "2": 71.77})}

# Figure 11: Pass@1 by good beginnings of 16.
TOLERANCE: Conditions = {("aime24", "R1-14B"): {
    "Pass@1": {**dict(zip("012345678", (41.9, 49.4, 65.6, 68.8, 68.8, 70.0, 72.5, 82.5, 84.4), strict=True)),
               "all bad": 28.75, "all good": 74.4}}}

# Figure 13: paths of one problem by what they held before and after peers. Figure 27: the temperature.
TRANSITIONS = _one("aime24", "QwQ-32B", "paths", {"C>C": 21.88, "I>C": 40.62, "I>I": 37.5, "C>I": 0.0})
TEMPERATURE = _one("aime24", "R1-14B", "Pass@1", {"0.6": 77.3})

# Figure 5b: "aha" moments with peers, against without, over the three mathematics sets. Figure 26: tokens a problem.
AHA = _one("mathematics", "QwQ-32B", "change", {"with peers": -16.4})
MOA = _one("aime24", "R1-14B", "tokens a problem", {"moa": 80_000.0})
