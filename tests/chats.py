"""Conversations with everything that a chat template may meet."""

USER = {"role": "user", "content": "Is it warm?"}
REPLY = {"role": "assistant", "content": "Very, since noon."}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "read_room", "arguments": {"unit": "F", "precise": True}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_room",
        "description": "Reads the room's temperature & humidity.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"type": "string", "description": "F or C"}},
            "required": ["unit"],
        },
    },
}
READ = [
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {
        "role": "tool", "tool_call_id": "call00001", "name": "read_room",
        "content": '{"temperature": 71.5}',
    },
]  # fmt: skip


def reply(content, **more):
    return {"role": "assistant", "content": content, **more}


def _null_keys(message):
    return message | {"name": None, "tool_calls": None, "reasoning_content": None}


# By name: the messages, the last of them the completion, and the template's variables.
CHATS = {
    "single turn": ([USER, REPLY], {}),
    "system": ([{"role": "system", "content": "Be brief."}, USER, REPLY], {}),
    "empty system": ([{"role": "system", "content": ""}, USER, REPLY], {}),
    "several turns": (
        [USER, reply("Yes."), {"role": "user", "content": "And now?"}, REPLY],
        {},
    ),
    "leading newline": ([USER, reply("\n\nVery.")], {}),
    "trailing space": ([USER | {"content": "Warm? "}, reply(" Very.  \n")], {}),
    "other letters": (
        [USER | {"content": "Ist es wärmer? 🔥"}, reply("日本語 … ❤️")],
        {},
    ),
    "thoughts": (
        [USER, reply("Very.", reasoning_content="It is noon.\nSo: warm.")],
        {},
    ),
    "thoughts in the text": ([USER, reply("<think>\nNoon.\n</think>\n\nVery.")], {}),
    "thoughts of earlier turns": (
        [USER, reply("Yes.", reasoning_content="Noon."), USER, REPLY],
        {},
    ),
    "null keys": ([_null_keys(USER), _null_keys(REPLY)], {}),
    "null content": ([USER, reply(None, tool_calls=[CALL])], {"tools": [TOOL]}),
    "tools": ([USER, REPLY], {"tools": [TOOL]}),
    "tool turns": ([USER, *READ, REPLY], {"tools": [TOOL]}),
    "parts": (
        [USER | {"content": [{"type": "text", "text": "Warm?"}]}, REPLY],
        {},
    ),
    "documents": (
        [USER, REPLY],
        {"documents": [{"title": "Noon", "text": "It is warm at noon."}]},
    ),
    "more variables": (
        [USER, REPLY],
        {"enable_thinking": False, "date_string": "1 May 2026"},
    ),
    "template's own tokens": ([USER, reply("<|im_end|><s>[INST] hi </s>")], {}),
}
