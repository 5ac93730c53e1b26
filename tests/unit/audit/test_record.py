"""What is kept of an answer."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from medrl.audit.key import AuditKey, load_key
from medrl.audit.record import chained, sealed
from medrl.config.audit import AuditConfig
from medrl.errors import AuditError, ConfigError
from tests.unit.audit.answers import SECRET, answer


def test_digests_are_hmacs_under_the_key(key) -> None:
    entry = sealed(answer(1, prompt="感冒", answer="休息"), key)
    for kept, purpose, text in ((entry.prompt_hmac, b"prompt", "感冒"), (entry.answer_hmac, b"answer", "休息")):
        message = b"medrl audit " + purpose + b"\0" + text.encode()
        assert kept == hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()
    other = sealed(answer(1, prompt="感冒"), AuditKey(b"another secret of the same length"))
    assert other.prompt_hmac != entry.prompt_hmac


def test_the_hash_is_that_of_the_canonical_json_of_all_other_columns(key) -> None:
    row = chained(sealed(answer(1), key), 3, "ab" * 32)
    text = json.dumps({name: row[name] for name in sorted(row) if name != "hash"}, separators=(",", ":"))
    assert row["hash"] == hashlib.sha256(b"medrl audit 1\n" + text.encode()).hexdigest()
    assert (row["seq"], row["prev_hash"], row["time_us"]) == (3, "ab" * 32, 1_790_000_001_250_000)


def test_of_the_sampling_settings_only_numbers_and_switches_are_kept_as_they_are(key) -> None:
    settings = {"temperature": 0.5, "n": 2, "echo": True, "seed": None, "stop": ["Mr Smith"], "top_p": float("inf"),
                "max_tokens": 10**30, "Mr Smith": 1, "user": "Mr Smith", "messages": []}
    kept = json.loads(sealed(answer(1, sampling=settings), key).sampling)
    digests = [kept.pop(name) for name in ("stop", "top_p", "max_tokens")]
    assert kept == {"temperature": 0.5, "n": 2, "echo": True, "seed": None}
    assert len({*digests}) == 3
    assert all(text.startswith("hmac:") for text in digests)
    assert digests[0] == "hmac:" + key.digest("sampling", '["Mr Smith"]')


def test_half_a_surrogate_pair_is_digested_too(key) -> None:
    assert sealed(answer(1, prompt="\ud800"), key).prompt_hmac != sealed(answer(1, prompt="\ud801"), key).prompt_hmac


@pytest.mark.parametrize("changes", [
    {"request_id": "Zhang Wei"}, {"request_id": ""}, {"key_id": "张伟"}, {"finish_reason": None},
    {"model_version": "=cmd()"}, {"prompt_tokens": -1}, {"completion_tokens": "12"}, {"choice": 2**63},
    {"weight_checksum": "a" * 201},
])
def test_what_is_no_label_and_no_count_is_refused_without_its_value(key, changes) -> None:
    with pytest.raises(AuditError) as caught:
        sealed(answer(1, **changes), key)
    (name, value), = changes.items()
    assert name in str(caught.value)
    assert not value or str(value) not in str(caught.value)


def test_an_answer_does_not_show_its_texts() -> None:
    shown = repr(answer(1, prompt="Mr Smith", answer="Mr Jones", sampling={"stop": "Mr Hall"}))
    assert not any(name in shown for name in ("Smith", "Jones", "Hall"))


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("CLINIC_KEY", SECRET)
    url = f"sqlite:///{tmp_path}/store/audit.db"
    keys = [load_key(AuditConfig(url=url, key_file=f"{tmp_path}/secret")),
            load_key(AuditConfig(url=url, key_env="CLINIC_KEY"))]
    assert len({key.digest("prompt", "x") for key in keys}) == 1


@pytest.mark.parametrize(("settings", "message"), [
    ({"key_env": "NOT_SET"}, "NOT_SET is not set"),
    ({"key_env": "SHORT"}, "too short"),
    ({"key_file": "store/secret"}, "beside what it protects"),
    ({"key_file": "spill/secret"}, "beside what it protects"),
    ({"key_file": "missing"}, "cannot be read"),
])
def test_a_key_that_cannot_be_used_is_refused_and_not_shown(tmp_path, monkeypatch, settings, message) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHORT", "hunter2")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/secret").write_text(SECRET)
    with pytest.raises(ConfigError, match=message) as caught:
        load_key(AuditConfig(url="sqlite:///store/audit.db", spill_dir="spill", **settings))
    assert "hunter2" not in str(caught.value)
    assert SECRET not in str(caught.value)
