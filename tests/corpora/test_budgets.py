"""Budgets and shards as they are typed."""

from __future__ import annotations

import pytest

from lnbench.corpora.budgets import parse_shard, parse_tokens
from lnbench.errors import LnbenchError


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        (None, {"en": None, "hi": None}),
        ("1000000", {"en": 1_000_000, "hi": 1_000_000}),
        ("100M", {"en": 100_000_000, "hi": 100_000_000}),
        ("1.5M", {"en": 1_500_000, "hi": 1_500_000}),
        ("0.29k", {"en": 290, "hi": 290}),
        ("en=2000000+hi=1000000", {"en": 2_000_000, "hi": 1_000_000}),
        ("hi=500k+en=2G", {"en": 2_000_000_000, "hi": 500_000}),
        ("1M+en=2M", {"en": 2_000_000, "hi": 1_000_000}),
    ],
)
def test_budgets(text, budgets):
    assert parse_tokens(text, ["en", "hi"]) == budgets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en=1M+hi=1M+ur=1M", "unknown language in the budget of tokens 'ur'; known: en, hi"),
        ("en=1M", r"has none for hi; name one for all others, as in 1M\+en=2M"),
        ("en=1M+en=2M+hi=1", "two numbers for en"),
        ("1M+2M", "two numbers for all languages"),
        ("1.5", "whole number above 0, not '1.5'"),
        ("0", "whole number above 0, not '0'"),
        ("-1", r"a number as 1000000, 500k, 1.5M or en=2M\+hi=1M, not '-1'"),
        ("1m", "not '1m'"),
        ("", "not ''"),
        ("en=", "not 'en='"),
        ("=1M", "unknown language in the budget of tokens ''"),
        ("1M,2M", "not '1M,2M'"),
        ("١", "not '١'"),
    ],
)
def test_bad_budgets_are_explained(text, message):
    with pytest.raises(LnbenchError, match=message):
        parse_tokens(text, ["en", "hi"])


def test_shards_are_typed_from_one():
    assert [parse_shard(f"{number}/3") for number in (1, 2, 3)] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/3", "no shard 0/3: shards are numbered from 1"),
        ("4/3", "no shard 4/3"),
        ("0/0", "no shard 0/0"),
        ("3", "a shard is written number/count, as 3/8 for the third of eight, not '3'"),
        ("a/b", "not 'a/b'"),
        ("-1/3", "not '-1/3'"),
        ("1/3/5", "not '1/3/5'"),
        ("١/٣", "a shard is written"),
    ],
)
def test_bad_shards_are_explained(text, message):
    with pytest.raises(LnbenchError, match=message):
        parse_shard(text)
