"""Which option an answer names."""

from __future__ import annotations

import pytest

from medrl.evaluation.choice import named_option, with_options

OPTIONS = ("see a dermatologist", "call an ambulance", "wait at home", "see a surgeon")


@pytest.mark.parametrize(("answer", "index"), [
    ("B", 1), ("B.", 1), (" (C) wait at home", 2), ("**D**", 3), ("b", None),
    ("The answer is C.", 2), ("Answer: B", 1), ("the right option is (D), not A.", 3), ("The answer is: b", 1),
    ("答案是B。", 1), ("答案：C", 2), ("应选Ｄ", 3), ("选 A，因为……", 0), ("（B）拨打急救电话", 1),
    ("A fever needs rest.", None), ("I think you should call an ambulance.", 1), ("I am not sure.", None), ("", None),
    ("Either see a surgeon or wait at home.", None), ("The answer is A. The answer is B.", None), ("E", None),
    ("Both (A) and (B) are fine", None),
])
def test_named_option(answer: str, index: int | None) -> None:
    assert named_option(answer, OPTIONS) == index


def test_the_question_is_put_with_lettered_options_in_its_own_language() -> None:
    system = {"role": "system", "content": "Be brief."}
    english = with_options((system, {"role": "user", "content": "Which?"}), ("one", "two"))
    assert english[0] == system
    assert english[1] == {"role": "user",
                          "content": "Which?\nA. one\nB. two\nAnswer with the letter of the right option only."}
    chinese = with_options(({"role": "user", "content": "哪个？"},), ("一", "二"))
    assert chinese[0]["content"] == "哪个？\nA. 一\nB. 二\n请只回答正确选项的字母。"
