"""Messages name a few things and count the rest."""

import pytest

from zs3.wording import first_names, number_of, passwords_in, printable, redacted


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        ([], None, "none"),
        (["a"], None, "a"),
        (["a", "b"], None, "a, b"),
        (["a", "b", "c", "d"], None, "a, b and 2 more"),
        (["a", "b"], 9, "a, b and 7 more"),
        (iter([1, 2, 3]), None, "1, 2 and 1 more"),
    ],
)
def test_two_names_are_written_out_and_the_others_counted(names, count, expected):
    assert first_names(names, 2, count=count) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@host/a.png is gone", "https://***@host/a.png is gone"),
        ("https://me:p@w@host/a@b.png", "https://***@host/a@b.png"),
        ("ftp://token@host", "ftp://***@host"),
        ("s3://bucket/a@b.png?X-Amz-Signature=ab12&x=1", "s3://bucket/a@b.png?X-Amz-Signature=***&x=1"),
        ("--storage-option secret=abc= region=here", "--storage-option secret=*** region=here"),
        ("key=AKIA, AWS_SECRET_ACCESS_KEY='a b'", "key=***, AWS_SECRET_ACCESS_KEY=***"),
        ("password=x;token=y)", "password=***;token=***)"),
        ("s3://bucket/key=5/token=7/a.png", "s3://bucket/key=5/token=7/a.png"),
        ("InvalidToken: the token is old; monkey=1", "InvalidToken: the token is old; monkey=1"),
        ("user@host", "user@host"),
    ],
)
def test_a_text_loses_its_secrets_and_nothing_else(text, expected):
    assert redacted(text) == expected and redacted(expected) == expected


def test_secrets_that_are_known_are_left_out_everywhere():
    assert passwords_in("https://me:p@w@host/a:b@c") == ["p@w"] and not passwords_in("/a:b@c")
    assert redacted("the store said hush-hush!", ["hush-hush"]) == "the store said ***!"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("half \ud800", r"half \ud800"),
        ("é 猫 \u200d [x] %", "é 猫 \u200d [x] %"),
    ],
)
def test_a_line_for_a_terminal_controls_nothing(text, expected):
    assert printable(text) == expected


def test_one_thing_has_a_singular():
    texts = [number_of(1, "image"), number_of(0, "image"), number_of(1000, "class", "classes")]
    assert texts == ["1 image", "0 images", "1,000 classes"]
