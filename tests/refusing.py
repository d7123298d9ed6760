"""How tests of error messages are written: a call, the exception, and words of its message.

The words are distinctive ones of the rule, of what arrived, and of the fix, in this order.
"""

import re

import pytest


def refuses(call, error, *words):
    """Raises exactly this kind, and the message holds all the words in this order."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    assert re.search(".*".join(map(re.escape, words)), message, re.DOTALL), message
    # The rule itself, not only an echo of what a library further down has said.
    assert re.search(r"(must|needs|cannot|could not)", message), message


def table(**rows):
    return pytest.mark.parametrize(
        ("call", "error", "words"),
        [(call, error, words) for call, error, *words in rows.values()],
        ids=list(rows),
    )


def refused(call, error, *says):
    """Asserts that `call()` raises `error` with a message in which each pattern is found."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for pattern in says:
        assert re.search(pattern, message), f"{pattern!r} is not in: {message}"
    return message
