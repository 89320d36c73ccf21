"""The router's tokenizer against transformers' AutoTokenizer, which vLLM uses, and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.base.errors import InvalidRequest, SettingsError
from segue.router.text.prompt import ChatPrompt, TextPrompt, TokenPrompt, read_prompt
from segue.router.text.tokenizer import TextCodec

MakeModel = Callable[..., Path]

TEXTS = [
    "",
    " ",
    "Hello, world",
    "a  b\n\n c",
    "Grüße 你好 🙂👍🏽",
    "<s>in</s> text <|end|>",
    "<tool call> x",
    "\x00\x7f\u2028",
]
CHAT = [
    {"role": "system", "content": 'Say "hi" <now>'},
    {"role": "user", "content": "Grüße 🙂"},
    {"role": "assistant", "content": "ok"},
]

CONFIGS: list[dict[str, Any]] = [
    {},
    {"add_bos_token": False},
    {"add_bos_token": True},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_eos_token": True},
    {"split_special_tokens": True},
    {"bos_token": None},
    {"pad_token": "<pad>"},
    {
        "added_tokens_decoder": {
            "601": {"content": "<extra>", "special": True},
            "3": {"content": "<|end|>", "special": False},
        }
    },
    {
        "template_file": "{{ eos_token }}",
    },
    {
        "chat_template": [
            {"name": "default", "template": "{{ bos_token }}default"},
            {"name": "tool_use", "template": "t"},
        ]
    },
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: json.dumps(config)[:40])
@pytest.mark.parametrize("kind", ["byte-level", "word"])
def test_ids_and_chat_equal_those_of_autotokenizer(make_model: MakeModel, kind: str, config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = make_model(kind, **config)
    reference = transformers.AutoTokenizer.from_pretrained(str(folder))
    codec = TextCodec.load(str(folder))
    for text in [*TEXTS, "<extra>", "<pad>"]:
        for special in (True, False):
            assert codec.encode(text, special) == reference.encode(text, add_special_tokens=special), (
                text,
                special,
            )
    rendered = reference.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert codec.render_chat(CHAT) == rendered
    ids = reference.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert codec.encode_chat(CHAT) == ids
    assert reference.eos_token_id in codec.eos_token_ids


def test_facts_come_from_the_config_files(codec: TextCodec) -> None:
    assert codec.vocab_size == 640
    assert codec.max_model_len == 256
    assert codec.eos_token_ids == {1, 3}


def test_token_text_shows_special_tokens_and_lone_bytes(codec: TextCodec) -> None:
    assert codec.token_text(1) == "</s>"
    lone = (
        codec.encode("é", add_special_tokens=False) if len(codec.encode("é", False)) > 1 else codec.encode("ÿ", False)
    )
    assert b"".join(codec.token_bytes(id_) for id_ in lone).decode() in {"é", "ÿ"}
    assert codec.token_text(lone[0]).startswith("\\x")
    assert codec.token_text(100_000) == ""


@given(st.text(st.characters(codec="utf-8")))
def test_token_bytes_join_to_the_text(codec: TextCodec, text: str) -> None:
    ids = codec.encode(text, add_special_tokens=False)
    assert b"".join(map(codec.token_bytes, ids)).decode() == text
    assert codec.max_bytes_per_token is not None
    assert len(text.encode()) <= len(ids) * codec.max_bytes_per_token


def test_word_tokens_show_their_space(word_codec: TextCodec) -> None:
    ids = word_codec.encode("the é", add_special_tokens=False)
    assert b"".join(map(word_codec.token_bytes, ids)) == " the é".encode()


def test_a_template_may_refuse_a_conversation(codec: TextCodec) -> None:
    with pytest.raises(InvalidRequest, match="unknown role pirate") as caught:
        codec.render_chat([{"role": "pirate", "content": "arr"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",  # the sandbox refuses
        "{{ messages.append(1) }}",
        "{{ messages[7].content + 1 }}",
        "{{ messages[0].content + 1 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_that_fails_is_the_requests_error(make_model: MakeModel, template: str) -> None:
    codec = TextCodec.load(str(make_model(template_file=template)))
    with pytest.raises(InvalidRequest, match="chat template"):
        codec.render_chat(CHAT)


def test_the_generation_tag_and_loop_controls_render(make_model: MakeModel) -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    codec = TextCodec.load(str(make_model(template_file=template + "{{ strftime_now('%Y') | length }}")))
    assert codec.render_chat(CHAT) == 'Say "hi" <now>4'


def test_a_model_without_a_template_says_what_to_use_instead(make_model: MakeModel) -> None:
    codec = TextCodec.load(str(make_model(chat_template=None)))
    with pytest.raises(InvalidRequest, match="no chat template; send its prompt to the completions API"):
        codec.render_chat(CHAT)


def test_settings_errors_name_the_file_and_the_place(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{tmp_path}.* has no tokenizer.json"):
        TextCodec.load(str(tmp_path))
    with pytest.raises(SettingsError, match=r"/no/such/folder.* no such folder"):
        TextCodec.load("/no/such/folder")
    broken = make_model()
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"tokenizer\.json of .* can't be loaded"):
        TextCodec.load(str(broken))
    broken = make_model()
    (broken / "config.json").write_text("[1]")
    with pytest.raises(SettingsError, match=r"config\.json holds a JSON list, expected an object"):
        TextCodec.load(str(broken))
    (broken / "config.json").write_text("{")
    with pytest.raises(SettingsError, match=r"config\.json is not valid JSON"):
        TextCodec.load(str(broken))
    with pytest.raises(SettingsError, match="not valid Jinja: line 1"):
        TextCodec.load(str(make_model(template_file="{% if %}")))


def test_a_model_is_found_on_the_hub_by_its_files(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = make_model()

    def download(repository: str, name: str) -> str:
        assert repository == "owner/name"
        if not (folder / name).exists():
            raise EntryNotFoundError(name)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert TextCodec.load("owner/name").vocab_size == 640

    def offline(repository: str, name: str) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(SettingsError, match=r"tokenizer\.json of 'owner/name'.*hub can't be reached"):
        TextCodec.load("owner/name")


async def test_prompts_of_each_kind_become_ids(codec: TextCodec) -> None:
    text = await read_prompt(codec, TextPrompt("hello"), max_model_len_tokens=256)
    assert list(text) == codec.encode("hello")
    long = "word " * 2000
    assert list(await read_prompt(codec, TextPrompt(long), max_model_len_tokens=9999)) == codec.encode(long)
    chat = await read_prompt(codec, ChatPrompt([{"role": "user", "content": "hi"}]), max_model_len_tokens=256)
    assert list(chat) == codec.encode_chat([{"role": "user", "content": "hi"}])
    assert await read_prompt(codec, TokenPrompt((1, 2)), max_model_len_tokens=256) == (1, 2)


async def test_a_text_that_cannot_fit_is_refused_without_tokenising(codec: TextCodec) -> None:
    with pytest.raises(InvalidRequest, match=r"at least \d+ tokens \(1000000 characters\), but the model takes 256"):
        await read_prompt(codec, TextPrompt("x" * 1_000_000), max_model_len_tokens=256)
