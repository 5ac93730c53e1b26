"""Which language a text is in, as far as metrics need to know it."""

from __future__ import annotations

import re

CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
CJK = re.compile(rf"{CHINESE.pattern}|[\u3040-\u30ff\uac00-\ud7af]")  # and Japanese kana, Korean
WORD = re.compile(r"[^\W_]+")


def is_chinese(text: str) -> bool:
    """Whether there is a Chinese character in it."""
    return CHINESE.search(text) is not None


def units(text: str) -> list[str]:
    """CJK characters one by one, other words in lower case, no punctuation: "流感 Flu?" → 流, 感, flu."""
    return WORD.findall(CJK.sub(r" \g<0> ", text.lower()))
