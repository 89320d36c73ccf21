"""A model's own chat template, rendered as transformers' ``apply_chat_template`` renders it, in a sandbox.

The environment (trimming, loop controls, ``raise_exception``, ``strftime_now``, ``tojson`` without HTML
escapes, the ``generation`` tag) follows transformers' utils/chat_template_utils.py: templates are
written against it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from segue.base.errors import InvalidRequest, SettingsError


class ChatTemplate:
    """A compiled template with the model's special tokens (``bos_token``, ...) as its variables."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile ``source``. Raises SettingsError if it isn't valid Jinja."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise SettingsError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from error
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text that asks the model for the next assistant message.

        Raises InvalidRequest if it can't be made.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            # Includes raise_exception, by which templates refuse conversations, and the sandbox's refusals.
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error.message or type(error).__name__}",
                param="messages",
            ) from error
        except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            # Templates are programs: what they do with an unexpected role or content can fail in any
            # such way.
            raise InvalidRequest(
                f"the model's chat template fails on these messages: {error}", param="messages"
            ) from error


class _GenerationTag(Extension):
    """``{% generation %}`` marks assistant text for training; here it only renders what is inside."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # templates may name the argument
    return datetime.now().strftime(format)
