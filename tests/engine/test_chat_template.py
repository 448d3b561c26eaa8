"""Chat templates: the same prompts as transformers renders, errors in one line, and no way out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ozone.engine import chat_template_budget
from ozone.engine.chat_template import ChatTemplate, read_chat_template
from ozone.errors import ConfigError, ModelFileError, OzoneError, RequestError

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
WITH_TOOLS = """{%- set ns = namespace(seen=0) %}
{%- if tools is not none %}
{{- '<tools>' }}
    {%- for tool in tools %}
    {{- '\\n' ~ tool | tojson }}
    {%- endfor %}
{{- '</tools>' }}
{%- endif %}
{%- for message in messages if message.role != 'skip' %}
    {%- set ns.seen = ns.seen + 1 %}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- message.content | trim }}
        {%- for call in message.tool_calls or [] %}
            {{- call.function.name ~ ' ' ~ call.function.arguments | tojson }}
            {%- if loop.index == 2 %}{% break %}{% endif %}
        {%- endfor %}
        {%- endgeneration %}
    {%- else %}
        {{- '[%s] %d ' % (message.role, ns.seen) + message['content'] }}
    {%- endif %}
{%- endfor %}
{%- macro closing(word='done') -%}
    <{{ word }}:{{ ns.seen }}>
{%- endmacro %}
{{- closing() }}{{ messages | map(attribute='role') | join(',') }}{{ 'a b c'.split(' ')[::-1] | join('-') }}
{{- 'x'.replace('x', 'yy') }}{{ enable_thinking is defined and enable_thinking }}
{{- '%05.1f' | format(3.14159) }}
"""
PARTS = (
    "{% for message in messages %}{{ message.role }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}<{{ part['text'] }}>{% endif %}{% endfor %}{% endfor %}"
)
EITHER = (
    "{% for message in messages %}{% set content = message.content %}{% if content is string %}"
    "{{ content }}{% else %}{% for part in content %}<{{ part.text }}>{% endfor %}{% endif %}{% endfor %}"
)
USER = [{"role": "user", "content": "Hi <b>\"there\"</b> & 'you' {{ 1 }} é 👩‍👩‍👧"}]
TURNS = [*USER, {"role": "assistant", "content": " Hello. "}, {"role": "user", "content": "and?"}]
TOOLS = [{"type": "function", "function": {"name": "f<>&'", "parameters": {"é": ["a", 1, None, 2.5, True]}}}]


def render(source: str, messages: Any = USER, **kwargs: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages, **kwargs)


@pytest.mark.parametrize("source", [CHATML, LLAMA2, WITH_TOOLS])
@pytest.mark.parametrize("messages", [USER, TURNS])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_renders_what_transformers_renders(
    source: str, messages: Any, tools: Any, add_generation_prompt: bool
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    options = {"add_generation_prompt": add_generation_prompt, "enable_thinking": True}
    [expected], _ = render_jinja_template(
        [messages], chat_template=source, tools=tools, bos_token="<s>", eos_token="</s>", **options
    )
    assert render(source, messages, tools=tools, **options) == expected


def test_a_token_that_the_model_lacks_is_empty_text() -> None:
    assert ChatTemplate("{{ bos_token }}|{{ unk_token }}", unk_token="<unk>").render(USER) == "|<unk>"


def test_text_parts_are_joined_where_the_template_takes_a_string() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "one\ntwo" in render(CHATML, [{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        (PARTS, [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "user:<one><two>"),
        (PARTS, "plain", "user:<plain>"),
        (EITHER, [{"type": "text", "text": "one"}], "<one>"),
        (EITHER, "plain", "plain"),
    ],
)
def test_text_parts_are_kept_where_the_template_reads_parts(source: str, content: Any, expected: str) -> None:
    assert render(source, [{"role": "user", "content": content}]) == expected


def test_a_missing_content_is_empty_text() -> None:
    messages = [{"role": "user", "content": None}, {"role": "assistant"}]
    assert render("{% for m in messages %}[{{ m.content }}]{% endfor %}", messages) == "[][]"


def test_tool_call_arguments_reach_the_template_as_an_object() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    source = "{% for c in messages[0].tool_calls %}{{ c.function.arguments.a[0] + 1 }}{% endfor %}"
    assert render(source, [{"role": "assistant", "content": None, "tool_calls": [call]}]) == "2"
    assert call["function"]["arguments"] == '{"a": [1]}'


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("hello", "messages[0] must be an object with a role"),
        ({"content": "x"}, "messages[0] must be an object with a role"),
        ({"role": "user", "content": 3}, "messages[0].content must be a string or a list of parts"),
        ({"role": "user", "content": [3]}, "messages[0].content[0] must be an object with a type"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0]: a part of type 'image_url' is not supported, only 'text'",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text must be a string"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "messages[0].tool_calls[0].function.arguments is not valid JSON",
        ),
    ],
)
def test_a_malformed_message_is_refused_in_one_line(message: Any, complaint: str) -> None:
    with pytest.raises(RequestError) as caught:
        render(CHATML, [message])
    assert str(caught.value) == complaint
    assert caught.value.param == "messages"


def test_what_the_template_refuses_is_said_in_its_words() -> None:
    with pytest.raises(RequestError, match="Conversation roles must alternate user/assistant"):
        render(LLAMA2, [*USER, *USER])


def test_an_error_inside_the_template_is_the_requests_error() -> None:
    with pytest.raises(RequestError, match="cannot render these messages: division by zero"):
        render("{{ 1 / (messages | length - 1) }}")


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x", "{% for a in b %}", "{{ x | no_such_filter }}", "{% nope %}"]
)
def test_a_template_that_is_not_jinja_is_a_model_file_error_with_its_line(source: str) -> None:
    with pytest.raises(ModelFileError, match=r"^the chat template is not valid Jinja: line 2: [^\n]+$"):
        ChatTemplate("first line\n" + source).validate()


def test_a_huge_or_deep_template_is_a_model_file_error() -> None:
    with pytest.raises(ModelFileError):
        ChatTemplate("x" * (2 << 20)).validate()
    with pytest.raises(ModelFileError):
        ChatTemplate("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}").validate()


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ '' | attr('__class__') }}",
        "{{ messages | map(attribute='__class__') | list }}",
        "{{ messages | map('attr', '__class__') | list }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ ('{0.__class__}' | attr('format'))(messages) }}",
        "{{ ['{0.__class__}'] | map('format', messages) | list }}",
        "{{ messages | groupby('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['os'].system('x') }}",
        "{{ range.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__globals__ }}",
        "{{ dict.mro() }}",
        "{{ namespace.mro() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ environment.filters }}{{ environment.__class__ }}",
        "{% set n = namespace() %}{% set n.__class__ = dict %}{{ n.__class__ }}",
        "{% set n = namespace(__class__=1) %}{{ n.__class__ }}",
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func.__globals__ }}",
        "{% for m in messages %}{{ loop.__class__ }}{{ loop._iterator.gi_frame }}{% endfor %}",
        "{{ (messages | map('upper')).gi_frame }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].pop('role') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% extends '/etc/passwd' %}",
        "{{ lipsum.__globals__ }}",
        "{{ get_flashed_messages.__globals__ }}",
    ],
)
def test_a_template_never_reaches_pythons_internals(attack: str) -> None:
    messages = [{"role": "user", "content": "hi"}]
    try:
        text = ChatTemplate(attack).render(messages)
    except (RequestError, ModelFileError):
        text = ""
    assert "class" not in text.replace("{0.__class__}", "")
    assert "<function" not in text and "module" not in text and "object at" not in text
    assert messages == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set x %}{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endset %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ ['x' * 10 ** 6] * 99999 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set n = namespace(s='aaaa') %}{% for i in range(100) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='aaaa') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(50) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
        "{{ n.s }}",
        "{% set n = namespace(s=[1]) %}{% for i in range(50) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
        "{{ n.s | tojson }}",
        "{% set n = namespace(s=9) %}{% for i in range(100) %}{% set n.s = n.s * n.s %}{% endfor %}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a'.zfill(10 ** 9) }}",
        "{{ '\t'.expandtabs(10 ** 9) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ [1] | batch(10 ** 9, 0) | list }}",
        "{{ 'a\nb' | indent(10 ** 9) }}",
        "{{ 'a\nb' | indent(width=10 ** 9) }}",
        "{{ '%1000000000d' % 3 }}",
        "{{ '%*d' % (10 ** 9, 3) }}",
        "{{ '%1000000000d' | format(3) }}",
        "{{ '{:1000000000}'.format(3) }}",
        "{{ '{:{}}'.format(3, 10 ** 9) }}",
        "{{ strftime_now('%1000000000d') }}",
        "{{ ('x' * 10 ** 6).replace('x', 'y' * 10 ** 6) }}",
        "{{ ('x' * 10 ** 6) | replace('x', 'y' * 10 ** 6) }}",
        "{{ range(99999) | join('x' * 10 ** 5) }}",
        "{{ ('x' * 10 ** 5).join(['a'] * 99999) }}",
        "{{ lipsum(n=10 ** 9) }}",
        "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ],
)
def test_a_template_cannot_run_on_or_fill_the_memory(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_budget, "MAX_SECONDS", 0.2)
    with pytest.raises((RequestError, ModelFileError)) as caught:
        render(bomb)
    assert "\n" not in str(caught.value)


MILLION = "{% set i = 'a' * 1000000 %}"


@pytest.mark.parametrize(
    "bomb",
    [
        "{% set b = range(90000)|list %}{{ ([b]*400)|sum(start=[])|length }}",
        "{{ [1, 2, 3] | sum(start='') }}",
        "{{ ('{' ~ ':' * 20000).format(1) }}",
        "{{ ('{' ~ ':' * 4000).format(1) }}",
        "{{ ('%(' * 2000) % {'a': 1} }}",
        "{{ '%(a)100000000d' % {'a': 1} }}",
        "{{ '%((a))100000000d' % {'(a)': 1} }}",
        "{{ '%(a)100000000d' | format(a=1) }}",
        "{{ '%.100000000d' % 1 }}",
        "{{ '%a' % 1 }}",
        "{{ '{0[}]:>100000000}'.format({'}': 'x'}) }}",
        "{{ '{:>{}}'.format('x', 100000000) }}",
        "{{ '{a:>100000000}'.format_map({'a': 1}) }}",
        MILLION + "{{ ('%(a)s' * 800) % {'a': i} }}",
        MILLION + "{{ ('{0}' * 1000).format(i) }}",
        MILLION + "{{ namespace(a=[i] * 1000) | string }}",
        MILLION + "{{ ([1] * 750) | tojson(indent=i) }}",
        MILLION + "{{ ([1] * 750) | tojson(true, i) }}",
        MILLION + "{{ [1, 2] | tojson(separators=(i, ':')) }}",
        MILLION + "{{ ([i] * 80) | tojson }}",
        "{% set n = namespace(s=1) %}{% for _ in range(150) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
        "{{ n.s | tojson(indent=16) }}",
        MILLION + "{{ ([{'a': i}] * 500) | join('', attribute='a') }}",
        MILLION + "{{ ([{'a': i}] * 500) | map(attribute='a') | join }}",
        MILLION + "{{ ('a' * 250) | replace(old='a', new=i) }}",
        MILLION + "{{ ('a' * 250).replace('a', i) }}",
        MILLION + "{{ {'a': [i] * 1000}.values() | string }}",
        MILLION + "{{ {'a': [i] * 1000}.items() }}",
        MILLION + "{{ ([i] * 1000) | upper }}",
        MILLION + "{{ ([i] * 1000) | sort | length }}",
        MILLION + "{{ ([i] * 1000) is lower }}",
        MILLION + "{{ raise_exception([i] * 1000) }}",
        MILLION + "{{ ('a\n' * 500) | indent(i) }}",
        "{{ ('a ' * 10000000).split() | length }}",
        "{{ ('a,' * 10000000).split(sep=',') | length }}",
        "{{ ('a\n' * 10000000).splitlines() | length }}",
        "{{ ('é' * 20000000) | list | length }}",
        "{{ ('<' * 30000000) | e }}",
        "{{ ('a ' * 10000000) | title }}",
        "{{ ('a' * 30000000).rfind('b' + 'a' * 10000000) }}",
        "{{ ('a' * 10000000).strip('b' * 10000000 + 'a') }}",
        "{{ ('a' * 10000000) | trim('b' * 10000000 + 'a') }}",
        "{{ 5 | round(-1000000000) }}",
        "{{ ('f' * 30000000) | int(0, 16) }}",
        "{% set n = namespace(a=1, b=1) %}{% for _ in range(60) %}{% set n.a = [n.a, n.a] %}"
        "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
        "{% set n = namespace(a=1, b=1) %}{% for _ in range(60) %}{% set n.a = [n.a, n.a] %}"
        "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a is eq(n.b) }}",
        "{% set n = namespace(a=1) %}{% for _ in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}"
        "{{ {n.a: 1} }}",
        "{% set n = namespace(a=1) %}{% for _ in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}"
        "{{ {}[n.a] }}{{ {}.get(n.a) }}",
        "{% set n = namespace(a=1) %}{% for _ in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}"
        "{{ [1] | map(n.a) | list }}",
        "{% set b = [0] * 2000000 %}{% set n = namespace(l=0) %}"
        "{% for _ in range(9999) %}{% set n.l = [n.l, b[:]] %}{% endfor %}",
        "{% set n = namespace(l=0) %}{% for _ in range(99999) %}"
        "{% set n.l = [n.l, " + "[], " * 2000 + "] %}{% endfor %}",
        "{% macro m() %}{% for a in range(9999) %}{% for b in range(9999) %}"
        + "{{ b }}" * 100
        + "{% endfor %}{% endfor %}{% endmacro %}{{ m() }}",
        "{% autoescape true %}{{ '<' * 1000 }}{% endautoescape %}",
    ],
)
def test_what_a_template_builds_is_refused_before_it_is_built(
    bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template_budget, "MAX_SECONDS", 0.5)
    template = ChatTemplate(bomb)
    caught: OzoneError | None = None
    tracemalloc.start()
    start = time.perf_counter()
    try:
        template.render(USER)
    except (RequestError, ModelFileError) as error:
        caught = error
    elapsed, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught is not None
    assert peak < 200 << 20
    assert elapsed < 5
    assert "\n" not in str(caught) and len(str(caught)) < 1100


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ [1, 2.5] | sum }}|{{ [{'n': 1}, {'n': 2}] | sum(attribute='n', start=10) }}", "3.5|13"),
        ("{{ '%(name)s is %(age)03d%%' % {'name': 'x', 'age': 7} }}", "x is 007%"),
        ("{{ '%-4s|%5.1f' % ('a', 2.25) }}{{ '%s' % 3 }}{{ '%s=%s' | format('a', 1) }}", "a   |  2.23a=1"),
        ("{{ '{0[a]}:{1:>3}{{}}{b!r}'.format({'a': 1}, 'x', b='y') }}", "1:  x{}'y'"),
        ("{{ {'a': [1, {'b': none}]} | tojson(indent=2, separators=(',', ':'), sort_keys=true) }}",
         '{\n  "a":[\n    1,\n    {\n      "b":null\n    }\n  ]\n}'),
        ("{{ [{'a': 1}, {'a': 'x'}] | join('-', attribute='a') }}{{ [1, none, [2]] | join(d=',') }}",
         "1-x1,None,[2]"),
        ("{{ 'aXbX' | replace('X', 'yy', 1) }}{{ 'aXbX'.replace('X', 'z', 1) }}", "ayybXazbX"),
        ("{{ {'b': 1, 'a': [2]}.items() }}{{ {'a': 1}.values() }}{{ {'a': 1}.keys() | list }}",
         "dict_items([('b', 1), ('a', [2])])dict_values([1])['a']"),
        ("{{ {'b': 1, 'a': 2} | dictsort }}{{ [3, 1, 2] | sort(reverse=true) }}{{ [1, 1] | unique | list }}",
         "[('a', 2), ('b', 1)][3, 2, 1][1]"),
        ("{{ 'a b  c'.split() }}{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a\nb'.splitlines() }}",
         "['a', 'b', 'c']['a,b', 'c']['a', 'b']"),
        ("{{ 'hello world' | title }}{{ ' x ' | trim }}{{ 'xxax'.strip('x') }}{{ ['a'] | upper }}",
         "Hello Worldxa['A']"),
        ("{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\nb' | indent('> ') }}",
         "a\n    b\n\n    c|  a\n  b|a\n> b"),
        ("{{ '42' | int + 1 }}{{ 'x' | int(7) }}{{ '1.5' | float }}{{ 2.567 | round(1) }}", "4371.52.6"),
        ("{{ messages[0].role in ['user', 'tool'] }}{{ [1, [2]] == [1, [2]] }}{{ 1 < 2 < 3 }}",
         "TrueTrueTrue"),
        ("{{ [1, 2, 3][1:] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][:-1] | last }}{{ range(3) | reverse | list }}",
         "[2, 3]cba2[2, 1, 0]"),
        ("{% for k, v in {'a': 1} | items %}{{ k }}{{ v }}{% endfor %}{{ dict(a=1, **{'b': 2}) }}",
         "a1{'a': 1, 'b': 2}"),
        ("{% for m in messages %}{% set c = ('a,b' * loop.index).split(',') %}{{ c[-1].lstrip('\\n') }}"
         "{{ '-'.join(c) }}{{ 'ab'.replace('a', c[0]) }}{{ 'x{}'.format(c[0]) }}{{ m.get('role') }}"
         "{{ {'a': c}.items() | list }}{{ loop.changed(c) }}{{ namespace(x=c).x }}{{ dict(y=1).y }}"
         "{% endfor %}{% block b %}{% set d = 'q' %}{{ d.upper() }}{{ [d].index(d) }}{% endblock %}",
         "ba-babxauser[('a', ['a', 'b'])]True['a', 'b']1Q0"),
        ("{% set n = namespace({'a': 1}, b=2) %}{{ n.a + n.b }}{{ n.c is defined }}", "3False"),
        ("{{ [{'r': 'a'}, {'r': 'b'}] | selectattr('r', 'equalto', 'b') | list | length }}"
         "{{ [0, 1] | select | list }}{{ none | map('upper') | list }}", "1[1][]"),
        ("{{ '<a>' | e }}{{ '<' | safe + '>' }}{{ undefined_name }}{{ [undefined_name] }}",
         "&lt;a&gt;<>[Undefined]"),
    ],
)  # fmt: skip
def test_filters_and_methods_do_what_they_do_in_jinja(source: str, expected: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    assert render(source) == expected
    if "| safe" not in source:  # which makes later text HTML there
        assert render_jinja_template([USER], chat_template=source)[0] == [expected]


def test_a_format_string_is_read_in_linear_time() -> None:
    start = time.perf_counter()
    for hostile in ("{" * 4096, "{" + ":" * 4095, "{0" + "[" * 4094, "{0!" * 1365, "{0:" + "0" * 4093):
        with contextlib.suppress(RequestError):
            render("{{ x.format(1) }}", x=hostile)
    for hostile in (
        "%(" * 2048,
        "%" + "0" * 4095,
        "%-" * 2048,
        "%(()" * 1024,
        "%" + "(" * 4095,
        "%0." * 1365,
    ):
        with contextlib.suppress(RequestError):
            render("{{ x % {} }}", x=hostile)
    assert time.perf_counter() - start < 2


def test_what_a_template_says_is_clipped() -> None:
    for source in ("{{ raise_exception('x' * 100000) }}", "{{ {}['x' * 100000].y }}"):
        with pytest.raises(RequestError) as caught:
            render(source)
        assert len(str(caught.value)) < 1100
    with pytest.raises(RequestError) as caught:
        render(CHATML, [{"role": "user", "content": [{"type": "x" * 100_000}]}])
    assert len(str(caught.value)) < 200


def test_a_huge_template_file_is_refused_unread(tmp_path: Path) -> None:
    huge, pipe = tmp_path / "huge.jinja", tmp_path / "pipe"
    with open(huge, "wb") as file:
        file.truncate(1 << 30)
    os.mkfifo(pipe)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_chat_template(str(huge))
    with pytest.raises(ConfigError, match="not a regular file"):
        read_chat_template(str(pipe))
    elapsed, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed < 2 and peak < 8 << 20


def test_a_long_conversation_is_rendered_within_the_limits() -> None:
    messages = [{"role": ("user", "assistant")[n % 2], "content": "word " * 100} for n in range(2000)]
    assert len(render(CHATML, messages)) > 1_000_000


def test_a_template_that_cuts_and_compares_long_messages_stays_within_the_limits() -> None:
    source = (
        "{% for m in messages %}{% set content = m.content %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{{ m.role ~ content | trim }}{% if messages[-1] == m %}!{% endif %}{{ m | tojson }}{% endfor %}"
    )
    messages = [{"role": "user", "content": f"{n}</think>\n" + "word\n" * 200} for n in range(1500)]
    start = time.perf_counter()
    assert len(render(source, messages)) > 3_000_000
    assert time.perf_counter() - start < 3


def test_a_prompt_over_the_limit_is_refused() -> None:
    with pytest.raises(RequestError, match="longer than 8388608 characters"):
        render(CHATML, [{"role": "user", "content": "x" * (9 << 20)}])


def test_renders_at_the_same_time_in_several_threads() -> None:
    template = ChatTemplate(CHATML)
    results: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n: results.append(template.render([{"role": "user", "content": str(n)}]))
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(template.render([{"role": "user", "content": str(n)}]) for n in range(8))


def test_a_template_argument_is_a_template_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(CHATML, encoding="utf-8")
    assert read_chat_template(str(file)) == CHATML
    assert read_chat_template(CHATML) == CHATML
    with pytest.raises(ConfigError, match=r"no-such-file.*neither a Jinja template nor a readable file"):
        read_chat_template("no-such-file.jinja")
    (tmp_path / "binary").write_bytes(b"\xff\xfe{{")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_chat_template(str(tmp_path / "binary"))
    with pytest.raises(ConfigError):
        read_chat_template("a\0b")


def test_jinja_is_imported_only_when_a_template_is_used() -> None:
    code = (
        "import sys; from ozone.engine.chat_template import ChatTemplate; t = ChatTemplate('{{ 1 }}');"
        "assert 'jinja2' not in sys.modules; assert t.render([]) == '1'; assert 'jinja2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_content_format_goes_before_what_the_source_looks_like():
    template = ChatTemplate("{{ messages[0].content }}")
    parts = "[{'type': 'text', 'text': 'hi'}]"
    by_format = {"auto": "hi", "string": "hi", "openai": parts}
    for name, expected in by_format.items():
        assert template.with_content_format(name).render([{"role": "user", "content": "hi"}]) == expected
    loop = ChatTemplate("{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}")
    assert loop.render([{"role": "user", "content": "hi"}]) == "[hi]"
    assert loop.with_content_format("string").render([{"role": "user", "content": "hi"}]) == "[][]"
    with pytest.raises(RequestError, match="auto, string, openai"):
        template.with_content_format("parts")


def test_what_a_template_says_is_escaped() -> None:
    template = ChatTemplate("{{ raise_exception('\x1b[2J' ~ messages[0].content) }}")
    with pytest.raises(RequestError, match=r"^the chat template says: \\x1b\[2J\\x07$"):
        template.render([{"role": "user", "content": "\x07"}])
