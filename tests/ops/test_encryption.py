"""The encryption of the payment provider's secrets: it decrypts what it encrypted, and nothing
else."""

from __future__ import annotations

import base64
import secrets

import pytest

from server.config import ConfigError, load_provider_config
from server.encryption import Cipher, DecryptionFailed

OLD, NEW = (secrets.token_urlsafe(48) for _ in range(2))


@pytest.mark.parametrize(
    "text",
    ["", "sk_test_1234", "Grüße, 世界 🔑 e\u0301", "\0 and \n", " around ", "x" * 100_000],
    ids=["empty", "key", "unicode", "control", "space", "long"],
)
def test_a_text_comes_back_as_it_was(text: str) -> None:
    cipher = Cipher([NEW])
    token = cipher.encrypt(text)
    assert cipher.decrypt(token) == text
    assert Cipher([NEW]).decrypt(token) == text  # in another process, too
    assert token.isascii()
    assert text == "" or text not in token


def test_the_same_text_never_looks_the_same() -> None:
    cipher = Cipher([NEW])
    assert len({cipher.encrypt("sk_test_1234") for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "other",
    [OLD, NEW[:-1], NEW + "x", NEW.swapcase(), NEW + " "],
    ids=["old", "shorter", "longer", "swapped case", "space behind"],
)
def test_another_key_opens_nothing(other: str) -> None:
    with pytest.raises(DecryptionFailed):
        Cipher([other]).decrypt(Cipher([NEW]).encrypt("secret"))


def test_a_text_that_was_changed_anywhere_does_not_open() -> None:
    cipher = Cipher([NEW])
    raw = base64.urlsafe_b64decode(cipher.encrypt("sk_test_1234"))
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises(DecryptionFailed):
            cipher.decrypt(base64.urlsafe_b64encode(changed).decode())
    for cut in (1, 16, len(raw) // 2):
        with pytest.raises(DecryptionFailed):
            cipher.decrypt(base64.urlsafe_b64encode(raw[:-cut]).decode())


@pytest.mark.parametrize("token", ["", "None", "sk_test_1234", "gAAAAA", "ü", "\0", "=" * 100])
def test_what_was_never_encrypted_does_not_open(token: str) -> None:
    with pytest.raises(DecryptionFailed):
        Cipher([NEW, OLD]).decrypt(token)


def test_the_first_key_encrypts_and_every_key_opens() -> None:
    both = Cipher([NEW, OLD])
    before, after = Cipher([OLD]).encrypt("before"), both.encrypt("after")
    assert (both.decrypt(before), both.decrypt(after)) == ("before", "after")
    assert Cipher([NEW]).decrypt(after) == "after"
    for keys, token in (([OLD], after), ([NEW], before)):
        with pytest.raises(DecryptionFailed):
            Cipher(keys).decrypt(token)


def test_what_an_error_says_has_neither_key_nor_text() -> None:
    token = Cipher([NEW]).encrypt("secret")
    with pytest.raises(DecryptionFailed) as caught:
        Cipher([OLD]).decrypt(token)
    assert str(caught.value) == ""
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("separator", [",", " ", "\n", ", ", "\n\n", ",,", "\r\n", "\t"])
def test_several_keys_stand_apart_by_commas_or_white_space(separator: str) -> None:
    config = load_provider_config({"ENCRYPTION_KEY": f"{NEW}{separator}{OLD}{separator}"})
    assert config.encryption_keys == (NEW, OLD)
    assert NEW not in repr(config)


@pytest.mark.parametrize(
    "other",
    ["short", "a" * 64, "ab" * 40, OLD[:31]],
    ids=["short", "one letter", "two letters", "31 letters"],
)
def test_one_weak_key_among_strong_ones_is_refused(other: str) -> None:
    for value in (f"{NEW},{other}", f"{other} {NEW}", other):
        with pytest.raises(ConfigError, match="ENCRYPTION_KEY is too weak") as caught:
            load_provider_config({"ENCRYPTION_KEY": value})
        assert other not in str(caught.value)


@pytest.mark.parametrize("value", ["", " ", ",", " , \n"])
def test_a_blank_key_is_no_key(value: str) -> None:
    with pytest.raises(ConfigError, match="ENCRYPTION_KEY"):
        load_provider_config({"ENCRYPTION_KEY": value})
