"""Errors travel between processes and say what to do."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest

from medrl import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MedrlError)]


def fail(kind: type[errors.MedrlError]) -> None:
    raise kind("it broke", limit="at most 3", got="4", remedy="use less")


@pytest.mark.parametrize("kind", KINDS)
def test_pickling_keeps_kind_and_all_parts(kind: type[errors.MedrlError]) -> None:
    error = kind("it broke", limit="at most 3", got="4", remedy="use less")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.message, back.limit, back.got, back.remedy) == ("it broke", "at most 3", "4", "use less")
    assert str(back) == str(error)
    assert back.exit_code == error.exit_code


def test_an_error_of_another_process_arrives_whole() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(errors.AmbiguousModuleError) as caught:
            pool.apply(fail, (errors.AmbiguousModuleError,))
    assert caught.value.remedy == "use less"


def test_text_has_a_line_for_each_part_that_is_there() -> None:
    error = errors.DataError("row is bad", limit="a string", got="7", remedy="quote it")
    assert str(error) == "row is bad\n  expected: a string\n  got: 7\n  remedy: quote it"
    assert str(errors.DataError("row is bad", remedy="quote it")) == "row is bad\n  remedy: quote it"
    assert str(errors.DataError("row is bad")) == "row is bad"


@pytest.mark.parametrize("kind", KINDS)
def test_exit_codes_are_neither_success_nor_a_signal(kind: type[errors.MedrlError]) -> None:
    assert kind.exit_code in (2, 3)
