"""Which fields of an OpenAI request are read, which are ignored and which are refused, and why.

A field is never dropped in silence if it would have changed the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from segue.base.errors import InvalidRequest

# They don't change the answer.
IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
    }
)

# Engine-internal parameters of vLLM, SGLang and Dynamo: with them a client would reach into the workers.
INTERNAL = frozenset(
    {
        "kv_transfer_params",
        "do_remote_decode",
        "do_remote_prefill",
        "remote_engine_id",
        "remote_block_ids",
        "remote_host",
        "remote_port",
        "ec_transfer_params",
        "request_id",
        "rid",
        "session_params",
        "custom_logit_processor",
        "routed_dp_rank",
        "priority",
        "vllm_xargs",
        "extra_args",
        "prompt_embeds",
        "cache_salt",
        "data_parallel_rank",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "nvext",
        "disaggregated_params",
        "mm_processor_kwargs",
        "logits_processors",
        "trace_decode_token_ids",
    }
)

# Not supported here; the values listed ask for nothing and are let through.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),  # Without tools, which are refused, auto is none.
    "functions": ([],),
    "function_call": ("none",),
    "suffix": ("",),
    "prompt_logprobs": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "truncate_prompt_tokens": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "tool_calls": ([],),
}

# Names that vLLM has given up, and what says the same today.
RENAMED: Mapping[str, str] = {
    "guided_json": "structured_outputs.json",
    "guided_regex": "structured_outputs.regex",
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar",
    "guided_json_object": "structured_outputs.json_object",
    "structural_tag": "structured_outputs.structural_tag",
    "guided_decoding_backend": "the engine argument structured_outputs_config",
    "guided_whitespace_pattern": "the engine argument structured_outputs_config",
}


def readable_fields(body: object, known: Collection[str], where: str = "") -> dict[str, Any]:
    """The fields of the JSON object ``body`` that are to be read; null counts as absent, as OpenAI has it.

    ``where`` is the object's own place, e.g. ``messages[0]``. Raises InvalidRequest naming the field that is
    engine-internal, not supported, or unknown (then with the nearest known name).
    """
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"{where or 'the body'} is {json_kind(body)}; it must be a JSON object", param=where or None
        )
    fields: dict[str, Any] = {}
    for name, value in body.items():
        if value is None:
            continue
        if name in known:
            fields[name] = value
        elif name not in IGNORED:
            _refuse_unless_neutral(name, value, frozenset(known), where)
    return fields


def json_kind(value: object) -> str:
    """A JSON value's kind, as people say it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, (list, tuple)) else "an object"


def _refuse_unless_neutral(name: str, value: object, known: frozenset[str], where: str) -> None:
    param = f"{where}.{name}" if where else name
    if name in INTERNAL:
        raise InvalidRequest(
            f"{param} is internal to the engines and can't be set by clients; leave it out",
            param=param,
            code="forbidden_parameter",
        )
    if name in UNSUPPORTED:
        # A boolean equals 0 or 1 in Python, but isn't the same in JSON.
        if any(value == neutral and type(value) is type(neutral) for neutral in UNSUPPORTED[name]):
            return
        raise InvalidRequest(f"{param} is not supported here; leave it out", param=param, code="unsupported_parameter")
    if name in RENAMED:
        raise InvalidRequest(
            f"{param} is an old name that is not taken here; use {RENAMED[name]}", param=param, code="unknown_parameter"
        )
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    raise InvalidRequest(f"{param[:100]} is not a known field; {hint}", param=param[:100], code="unknown_parameter")
