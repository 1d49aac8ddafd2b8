"""Chat templates are rendered as transformers renders them: templates of our own, which use what real ones use, and the
real ones that llama.cpp is tested on, where scripts/fetch-jinja has put them."""

import json
import subprocess

import pytest
import text_models
import transformers
from conftest import BUILD, ROOT
from transformers.utils.chat_template_utils import render_jinja_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
CHATS = {
    "user": [{"role": "user", "content": 'Is <b>"1 < 2"</b> naïve?\n日本  x '}],
    "system": [{"role": "system", "content": "Be brief. \n"}, {"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "Again"},
    ],
    "all": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Again"},
    ],
    "first is the assistant": [{"role": "assistant", "content": "Welcome"}, {"role": "user", "content": "Hi"}],
}

TEMPLATES = {
    "chatml": """\
{% for message in messages %}{{ '<|start|>' + message['role'] + '\\n' + message.content + '<|end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}""",
    "roles must alternate": """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system, rest = messages[0]['content'] | trim + '\\n\\n', messages[1:] -%}
{%- else -%}
    {%- set system, rest = '', messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate: user, assistant, user, ...') }}
    {%- endif -%}
    {{ '[Q] ' ~ (system if loop.first else '') ~ message.content.strip() ~ ' [A]' if message.role == 'user'
       else message.content ~ eos_token }}
{%- endfor %}""",
    "namespaces, tests and slices": """\
{%- set ns = namespace(last_user=-1, system='') %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.last_user == -1 and message.role == "user" and message.content is string
          and not (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.last_user = index %}
    {%- endif %}
{%- endfor %}
{%- if messages[0].role in ['system', 'developer'] %}{% set ns.system = messages[0].content %}{% endif %}
{{- '<sys>' + (ns.system or 'default') + '</sys>' }}
{%- for message in messages if message.role != 'system' %}
    {%- set content = message.content %}
    {%- if loop.index0 <= ns.last_user and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- loop.index ~ '/' ~ loop.length ~ ' ' ~ message.role | upper ~ ': ' ~ content | trim }}
    {%- if message.tool_calls is defined and message.tool_calls is not none %}never{% endif %}
    {%- if not loop.last %}{{ '\\n' }}{% endif %}
{%- endfor %}""",
    "macros, defaults and json": """\
{#- a comment -#}
{%- macro turn(role, text, end='<end>') -%}
    {{- '<' ~ role ~ '>' ~ text ~ end -}}
{%- endmacro -%}
{%- if tools %}{{ raise_exception('no tools here') }}{% endif -%}
{{- messages | tojson }} {{ {'a': [1, 2.5, none, true], 'é': "<'\\"\\n"} | tojson(indent=2) }}
{% for message in messages %}
{{ turn(message.role, message.content) }}{{ turn('x', message['content'], end='') }}
{% endfor %}
{{ unknown | default('nothing') }} {{ messages | map(attribute='role') | join(',') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ documents is none }}""",
    "white space": """\
   {% if true %}
  a
    {%- if false %}b{% else %} c {% endif %}

   {{ bos_token }}
{# gone #}
 d{{- '  e' -}}
     f
	{% for m in messages -%}
      {{ loop.index0 }}
   {%- endfor %}  g
   {% endif %}  
""",
    "loops": """\
{% for message in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{% if message.role == 'system' %}{% continue %}\
{% endif %}{{ loop.revindex }}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ message.content }}{% else %}none\
{% endfor %}{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}{% for i in range(1, 9, 3) %}{{ i }}\
{% endfor %}""",
    "generation": """\
{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}\
{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}""",
    "the date": "{{ strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' }} {{ messages[0].content }}",
    "sets and blocks": """\
{%- set text %}
{% for message in messages %}- {{ message.content | replace('i', '!') | trim }}
{% endfor %}
{% endset -%}
{{ text | trim }}|{{ 'yes' if 'x' not in text else 'no' }}|{{ (pad_token ~ '-') * 3 }}""",
    "refused": "{{ raise_exception('never: ' ~ messages[0].role) }}",
}


def write_model(directory, template=None, **config):
    """A model directory as far as the tokenizer goes."""
    directory.mkdir(parents=True, exist_ok=True)
    text_models.tokenizer().save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    return directory


def render(*requests):
    """[{"text": ...} or {"error": ...}] of requests (directory, messages, name of the template or None)."""
    lines = [
        json.dumps({"directory": str(directory), "messages": messages} | ({"name": name} if name else {}))
        for directory, messages, name in requests
    ]
    process = subprocess.run([BUILD / "chat_template_tool"], input="\n".join(lines) + "\n", capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def expected(template, messages):
    """The text, or None where jinja2 has an error."""
    try:
        return render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **TOKENS)[0][0]
    except Exception:
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_the_text_of_transformers(name, tmp_path):
    directory = write_model(tmp_path / "model", TEMPLATES[name])
    answers = render(*((directory, messages, None) for messages in CHATS.values()))
    texts = [expected(TEMPLATES[name], messages) for messages in CHATS.values()]
    assert [answer.get("text") for answer in answers] == texts
    assert any(texts) != (name == "refused")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    if texts[0] is not None:  # expected() is what a tokenizer does with such a directory
        assert tokenizer.apply_chat_template(CHATS["user"], tokenize=False, add_generation_prompt=True) == texts[0]


def real_templates():
    return sorted((ROOT / ".cache" / "jinja" / "templates").glob("*.jinja"))


@pytest.mark.skipif(not real_templates(), reason="no .cache/jinja/templates: run scripts/fetch-jinja")
def test_real_templates_give_the_text_of_transformers(tmp_path):
    requests, texts = [], []
    for path in real_templates():
        with open(path, encoding="utf-8", newline="") as file:
            template = file.read()
        directory = write_model(tmp_path / path.stem, template)
        for name, messages in CHATS.items():
            text = expected(template, messages)
            if text is not None:  # what jinja2 refuses, the engine may take
                requests.append((directory, messages, None))
                texts.append((path.stem, name, text))
    answers = render(*requests)
    wrong = [(stem, name) for (stem, name, text), answer in zip(texts, answers) if answer.get("text") != text]
    assert not wrong
    assert len({stem for stem, _, _ in texts}) >= 60


def test_templates_are_found_where_transformers_finds_them(tmp_path):
    named = [{"name": "default", "template": "list default"}, {"name": "tool_use", "template": "list tools"}]
    cases = {
        "file": write_model(tmp_path / "file", "file", chat_template="config"),
        "string": write_model(tmp_path / "string", chat_template="config"),
        "list": write_model(tmp_path / "list", chat_template=named),
        "folder": write_model(tmp_path / "folder", "file", chat_template=named),
    }
    extra = cases["folder"] / "additional_chat_templates"
    extra.mkdir()
    (extra / "rag.jinja").write_text("extra")
    for directory in cases.values():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        known = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {"default": None}
        for name in known:
            [answer] = render((directory, CHATS["user"], name))
            text = tokenizer.apply_chat_template(CHATS["user"], tokenize=False, chat_template=name if known[name] else None)
            assert answer == {"text": text}, (directory, name)
        [default] = render((directory, CHATS["user"], None))
        assert default == {"text": tokenizer.apply_chat_template(CHATS["user"], tokenize=False)}
    [unknown] = render((cases["folder"], CHATS["user"], "tool_use"))
    assert unknown["error"].endswith('has no chat template "tool_use"; choose one with --chat-template: default, rag.')


def test_named_tokens_are_those_of_transformers(tmp_path):
    template = "{{ bos_token }}|{{ eos_token }}|{{ unk_token is defined }}|{{ cls_token is defined }}"
    objects = {"bos_token": {"content": "<pad>", "lstrip": False}, "cls_token": "</s>"}
    listed = {str(i): {"content": text, "special": True} for i, text in enumerate(text_models.SPECIAL)}
    with_map = write_model(tmp_path / "map", template)
    with_list = write_model(tmp_path / "list", template, added_tokens_decoder=listed)
    for directory in (with_map, with_list):
        (directory / "special_tokens_map.json").write_text(json.dumps(objects))
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        text = tokenizer.apply_chat_template(CHATS["user"], tokenize=False)
        assert render((directory, CHATS["user"], None)) == [{"text": text}]


@pytest.mark.parametrize(
    "template, line, problem",
    [
        ("a\n{% if x %}\nb", 2, ""),
        ("a\nb\n{{ messages | nonsense }}", 3, 'cannot be rendered: Unknown (built-in) filter'),
        ("{% unknown %}", 1, "cannot be rendered: Unknown statement: unknown"),
        ("\n\n{{ 'x\\q' }}", 3, "cannot be rendered: unknown escape character"),
        ("\n{{ 1 + }}", 2, "cannot be rendered: Unexpected token"),
        ("\n{% include 'other' %}", 2, "cannot be rendered: Unknown statement: include"),
        ("{% macro f() %}\n{{ g.h() }}{% endmacro %}\n{{ f() }}", None, "cannot be rendered: Callee is not a function"),
        ("\n{{ raise_exception('not this') }}", 2, "rejects these messages: not this"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", None, "cannot be rendered: it nested or recursed too deeply"),
        ("{{ " + "(" * 200_000 + "1" + ")" * 200_000 + " }}", None, "cannot be rendered: it nested or recursed too deeply"),
        ("{% set ns = namespace(t='x') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}", None,
         "cannot be rendered: it used more than 1000 MB of memory"),
        ("{{ range(1000000000) | length }}", 1, "range() of more than 100,000 items"),
        ("{{ messages[0].content[:1] }}", None, "splits a character of the messages"),
    ],
)  # fmt: skip
def test_a_template_that_fails_says_where_and_why(template, line, problem, tmp_path):
    directory = write_model(tmp_path / "model", template)
    in_config = write_model(tmp_path / "config", chat_template=template)
    messages = [{"role": "user", "content": "é"}]
    in_file, in_config = (answer["error"] for answer in render((directory, messages, None), (in_config, messages, None)))
    place = f"chat_template.jinja:{line}: " if line else "chat_template.jinja"
    assert place in in_file and problem in in_file, in_file
    assert (f"tokenizer_config.json: chat_template, line {line}: " if line else "json: chat_template") in in_config
