"""Budgets and shards as they are typed."""

from __future__ import annotations

import pytest

from lnbench.corpora.budgets import parse_shard, parse_tokens
from tests.support.messages import refused


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
    ("text", "named"),
    [
        ("en=1M+hi=1M+ur=1M", ["ur", "en, hi"]),
        ("en=1M", ["hi", "1M+en=2M"]),
        ("en=1M+en=2M+hi=1", ["en", "two"]),
        ("1M+2M", ["all", "two"]),
        ("1.5", ["0", "'1.5'"]),
        ("0", ["0", "'0'"]),
        ("-1", ["1000000", "500k", "1.5M", "en=2M+hi=1M", "'-1'"]),
        ("1m", ["'1m'"]),
        ("", ["''"]),
        ("en=", ["'en='"]),
        ("=1M", ["''", "en, hi"]),
        ("1M,2M", ["'1M,2M'"]),
        ("١", ["'١'"]),
    ],
)
def test_bad_budgets_are_explained(text, named):
    with refused(*named):
        parse_tokens(text, ["en", "hi"])


def test_shards_are_typed_from_one():
    assert [parse_shard(f"{number}/3") for number in (1, 2, 3)] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0/3", ["0/3", "1"]),
        ("4/3", ["4/3"]),
        ("0/0", ["0/0"]),
        ("3", ["number/count", "3/8", "'3'"]),
        ("a/b", ["'a/b'"]),
        ("-1/3", ["'-1/3'"]),
        ("1/3/5", ["'1/3/5'"]),
        ("١/٣", ["number/count", "'١/٣'"]),
    ],
)
def test_bad_shards_are_explained(text, named):
    with refused(*named):
        parse_shard(text)
