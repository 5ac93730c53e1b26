"""200 identifiers of people who do not exist, to be planted in texts and searched for afterwards."""

from __future__ import annotations

import json
import random
from pathlib import Path

FAMILY, GIVEN = "王李张刘陈杨赵黄周吴", ["伟明", "秀英", "子涵", "建国", "雨桐"]
FIRST, LAST = ["Alma", "Bertram", "Cosima", "Dorian", "Elspeth"], ["Ashgrove", "Birtwhistle", "Quillfeather", "Yarrow"]


def planted_identifiers() -> list[str]:
    """Names, telephone numbers, identity and record numbers, and addresses, Chinese and English."""
    draw = random.Random(0)
    chinese = [draw.choice(FAMILY) + draw.choice(GIVEN) + draw.choice("安宁康乐平") for _ in range(60)]
    english = [f"{draw.choice(FIRST)} {draw.choice(LAST)}-{draw.choice(LAST)}" for _ in range(60)]
    phones = [f"1{draw.randrange(30, 99)}{draw.randrange(10**8):08}" for _ in range(120)]
    cards = [f"11010519{draw.randrange(40, 99)}{draw.randrange(10**8):08}X" for _ in range(120)]
    records = [f"MRN-{draw.randrange(10**7):07}" for _ in range(120)]
    streets = [f"{draw.randrange(1000, 9999)} {draw.choice(LAST)} Lane" for _ in range(120)]
    roads = [f"朝阳区安宁路{draw.randrange(1000, 9999)}号" for _ in range(120)]
    kinds = [[*dict.fromkeys(kind)] for kind in (chinese, english, phones, cards, records, streets, roads)]
    found = [kind[i] for i in range(60) for kind in kinds if i < len(kind)][:200]
    assert len({*found}) == 200
    return found


def found_in(text: str) -> list[str]:
    """The planted identifiers in a text, be it as they are or as JSON escapes."""
    return [name for name in planted_identifiers() if name in text or json.dumps(name)[1:-1] in text]


def found_under(folder: Path) -> list[str]:
    """The planted identifiers in the bytes of any file."""
    text = "\n".join(path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file())
    return found_in(text)
