"""The prompt of a decoder as a chat template: messages in, the text that the model was trained on out."""

from __future__ import annotations

from tove_core.language.marks import IMAGE
from tove_core.language.prompt import PromptLayout, without_place

# What a message says, as its texts and as many marks as it shows images; a text may mark their places itself.
_GATHER = """\
{%- set own = namespace(text='', images='') -%}
{%- if message['content'] is string -%}
{%- set own.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{%- set own.images = own.images + MARK -%}
{%- elif part['type'] == 'text' -%}{%- set own.text = own.text + part['text'] -%}
{%- else -%}{{- raise_exception('a message shows images and texts alone') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if MARK in own.text -%}{%- set own.images = '' -%}{%- endif -%}
"""
_PLAIN = """\
{{- START -}}
{%- for message in messages -%}
GATHER{%- if message['role'] == 'user' -%}
{%- if own.images -%}{{- SHOWN_HEAD -}}{{- own.text -}}{{- SHOWN_TAIL -}}
{%- else -%}{{- HEAD -}}{{- own.text -}}{{- TAIL -}}
{%- endif -%}
{%- elif message['role'] == 'assistant' -%}{{- GAP -}}{{- own.text.strip() -}}{{- END -}}
{%- else -%}{{- raise_exception('this model knows the roles user and assistant alone') -}}
{%- endif -%}
{%- endfor -%}
"""
_STRINGS = """\
{%- set enable_thinking = false -%}
{%- set every = namespace(messages=[]) -%}
{%- for message in messages -%}
GATHER{%- if own.images -%}{%- set own.text = own.images + BREAK + own.text -%}{%- endif -%}
{%- set every.messages = every.messages + [dict(message, content=own.text)] -%}
{%- endfor -%}
{%- set messages = every.messages %}
"""
_PARTS = """\
{%- set enable_thinking = false -%}
{%- set every = namespace(messages=[]) -%}
{%- for message in messages -%}
GATHER{%- if MARK in own.text -%}
{%- set every.messages = every.messages + [dict(message, content=[{'type': 'text', 'text': own.text}])] -%}
{%- else -%}
{%- set every.messages = every.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = every.messages %}
"""


def chat_template(layout: PromptLayout) -> str:
    """Return a Jinja template that renders one question about images as `layout` lays it out, start tokens included.

    Where the tokenizer's own chat template is what the model was trained with, it is that one, with a few lines before
    it that put images where training put them. Else it is the decoder's template, of which every user's message is one,
    and every assistant's message an answer.
    """
    form = layout.form
    if layout.chat:
        # The line feed at the end of the lines is the one that is dropped behind a block, so none is added.
        return _filled(_PARTS if form.parts else _STRINGS) + str(layout.tokenizer.get_chat_template())
    head, tail = form.template.split("{prompt}")
    bare_head, bare_tail = without_place(form.template).split("{prompt}")
    start = "".join(layout.tokenizer.convert_ids_to_tokens(list(layout.start)))
    return _filled(
        _PLAIN,
        SHOWN_HEAD=_shown(head),
        SHOWN_TAIL=_shown(tail),
        HEAD=_quoted(bare_head),
        TAIL=_quoted(bare_tail),
        START=_quoted("" if head.startswith(start) else start),
        GAP=_quoted(form.gap),
        END=_quoted(str(layout.tokenizer.convert_ids_to_tokens(layout.end))),
    )


def _filled(lines: str, **values: str) -> str:
    # Before the values, which may hold these words.
    lines = lines.replace("GATHER", _GATHER).replace("MARK", _quoted(IMAGE)).replace("BREAK", _quoted("\n"))
    # Longer names first: some begin with others.
    for name in sorted(values, key=len, reverse=True):
        lines = lines.replace(f"{{{{- {name} -}}}}", f"{{{{- {values[name]} -}}}}")
    return lines


def _shown(text: str) -> str:
    """Return a Jinja expression for text in which {image} stands for a message's marks."""
    return " + own.images + ".join(_quoted(part) for part in text.split("{image}"))


def _quoted(text: str) -> str:
    """Return text as a string of Jinja, whose escapes are Python's."""
    escaped = text.encode("unicode-escape").decode("ascii").replace("'", "\\'")
    return f"'{escaped}'"
