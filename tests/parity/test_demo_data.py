"""The demo's corpora: disjoint, the same on every run, plain prose. On a small stand-in of the same formats, and on the
real inputs where they were fetched."""

import bz2
import collections
import hashlib
import html
import importlib.util
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

TOOL = ROOT / "tools" / "make_demo_data.py"
FILES = ("domain_train", "domain_heldout", "general_probe", "general_replay", "general_heldout")
MARKUP = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|'''|</?(?:ref|sub|sup|br|div|span|math|small|blockquote)\b|"
    r"&(?:nbsp|amp|lt|gt|quot|ndash);|https?:|www\.|==|\|\||\bPMID|\bxref\b|orcid|\bthumb\||"
    r"\x00|\bHP:\d|File:|Category:|\(\s*[,;)]|\\[nW\"]"
)


def tool_module():
    specification = importlib.util.spec_from_file_location("make_demo_data", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run_tool(text, out):
    return subprocess.run(
        [sys.executable, str(TOOL), "--text", str(text), "--out", str(out)], capture_output=True, text=True
    )


def word(number):
    """A made-up word, different for each number."""
    return "".join("bdfgklmnprst"[(number // 12**place) % 12] + "aeiou"[number % 5] for place in range(3))


def sentence(seed, words=12):
    return " ".join(word(seed * 97 + position * 13) for position in range(words)).capitalize() + "."


def write_stand_in(folder):
    """Terms, articles and a wiki dump in the formats of the real files, large enough that every part gets some."""
    folder.mkdir(parents=True)
    stanzas = ["format-version: 1.2\n"]
    for number in range(200):
        stanzas.append(
            f"[Term]\nid: HP:{number:07d}\nname: Sign {word(number)}\n"
            f'def: "{sentence(number)} Said \\"so\\" (PMID:1234)." [PMID:77, https://orcid.org/0000-0001]\n'
            f'comment: {sentence(number + 500)} {{xref="https://orcid.org/0000"}}\n'
            f'synonym: "{word(number + 300)} sign" EXACT layperson []\nsynonym: "Old" EXACT obsolete_synonym []\n'
        )
    stanzas.append('[Term]\nid: HP:0009001\nname: Gone\ndef: "A term that is in use no more." []\nis_obsolete: true\n')
    stanzas.append("[Term]\nid: HP:0009002\nname: Undefined\n")
    (folder / "hp.obo").write_text("\n".join(stanzas), encoding="utf-8")
    news = [" ".join(sentence(number * 7 + part) for part in range(6)) for number in range(60)]
    (folder / "lee_background.cor").write_text("\n".join(news) + "\n", encoding="utf-8")
    pages = []
    for number in range(40):
        body = " ".join(sentence(9000 + number * 31 + part) for part in range(8))
        markup = (
            f"{{{{Infobox|name={{{{small|X}}}}|area=5}}}}\n'''{body[:-1]}''' in [[Place (town)|a place]]"
            f'<ref name="a/b">{{{{cite web|url=http://x.org}}}}</ref>.{{{{citation needed|date=May}}}} It is '
            f"{{{{convert|5|km|mi}}}} long&nbsp;here. The sum <math>x^2</math> is dropped.\n"
            f'[[File:A.jpg|thumb|A [[caption]] here.]]\n{{| class="x"\n|-\n| cell || cell\n|}}\n* a list item\n'
            f"== References ==\n{sentence(number)} {sentence(number + 1)} {sentence(number + 2)}\n[[Category:Things]]"
        )
        pages.append(
            f"<page><title>Page {number}</title><ns>0</ns><id>{number}</id><revision><id>1</id>"
            f"<text>{html.escape(markup)}</text></revision></page>"
        )
    pages.append(
        '<page><title>R</title><ns>0</ns><id>99</id><redirect title="Page 1"/><revision>'
        "<text>#REDIRECT [[Page 1]]</text></revision></page>"
    )
    dump = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">' + "".join(pages) + "</mediawiki>"
    (folder / "enwiki.xml.bz2").write_bytes(bz2.compress(dump.encode()))


@pytest.fixture(scope="module", params=["stand-in", "real"])
def corpora(request, demo_text, tmp_path_factory):
    """The documents of every output file, made from the stand-in and from the real inputs."""
    folder = tmp_path_factory.mktemp("demo-data")
    text = demo_text
    if request.param == "stand-in":
        text = folder / "text"
        write_stand_in(text)
    elif text is None:
        pytest.skip("the real texts are not here (scripts/fetch-demo-assets text); the stand-in covers the same")
    process = run_tool(text, folder / "out")
    assert process.returncode == 0, process.stderr
    documents = {
        name: [json.loads(line) for line in (folder / "out" / f"{name}.jsonl").open(encoding="utf-8")] for name in FILES
    }
    return collections.namedtuple("Corpora", "kind text out documents printed")(
        request.param, text, folder / "out", documents, process.stdout
    )


def test_every_document_has_an_id_and_text_and_the_table_counts_them(corpora):
    for name, documents in corpora.documents.items():
        assert documents, name
        assert all(set(document) == {"id", "text"} and document["text"].strip() for document in documents)
        row = next(line.split() for line in corpora.printed.splitlines() if line.startswith(f"{name}.jsonl"))
        assert int(row[1].replace(",", "")) == len(documents)


def test_no_term_and_no_article_is_in_two_files(corpora):
    def owners(names, key):
        found = collections.defaultdict(set)
        for name in names:
            for document in corpora.documents[name]:
                found[key(document)].add(name)
        return [owner for owner, files in found.items() if len(files) > 1]

    identities = [document["id"] for documents in corpora.documents.values() for document in documents]
    assert len(identities) == len(set(identities))
    assert owners(FILES, lambda document: document["id"].split("/")[0]) == []
    assert owners(FILES, lambda document: document["text"]) == []


def test_near_duplicates_are_on_one_side(corpora):
    """The tool compares definitions; whole texts, which have names and synonyms too, are compared here."""
    words = lambda document: frozenset(re.findall(r"\w+", document["text"].lower()))
    train, with_word = [words(document) for document in corpora.documents["domain_train"]], collections.defaultdict(list)
    for number, text in enumerate(train):
        for word_ in text:
            with_word[word_].append(number)
    for document in corpora.documents["domain_heldout"][:300]:
        held_out = words(document)
        shared = collections.Counter(number for word_ in held_out for number in with_word[word_])
        likeness = max(count / (len(held_out) + len(train[number]) - count) for number, count in shared.items())
        assert likeness < 0.9, document


def test_the_tool_groups_what_brute_force_groups(corpora):
    if corpora.kind == "real":
        pytest.skip("quadratic; the stand-in covers it")
    tool = tool_module()
    sets = {
        f"{number:03d}": frozenset(word(number % 40 + offset * (1 + number % 3)) for offset in range(10))
        for number in range(120)
    }
    similar = {
        tuple(sorted((one, other)))
        for one in sets
        for other in sets
        if one != other and len(sets[one] & sets[other]) >= 0.7 * len(sets[one] | sets[other])
    }
    assert similar and {tuple(sorted(pair)) for pair in tool.similar_pairs(sets, 0.7)} == similar


def test_no_markup_and_no_citation_is_left(corpora):
    for name, documents in corpora.documents.items():
        found = [MARKUP.search(document["text"]) for document in documents]
        left = [match.string[max(0, match.start() - 40) : match.end() + 40] for match in found if match]
        assert left == [], name


def test_texts_are_whole_sentences(corpora):
    for name, documents in corpora.documents.items():
        ends = [document["text"] for document in documents if not re.search(r"[.!?][\"”’'\])]*$", document["text"])]
        assert len(ends) <= 0.02 * len(documents), (name, ends[:5])


def test_a_second_run_writes_the_same_bytes(corpora, tmp_path):
    def digests(folder):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}

    assert run_tool(corpora.text, tmp_path / "again").returncode == 0
    assert digests(tmp_path / "again") == digests(corpora.out)


def test_the_stand_in_reads_as_expected(corpora):
    if corpora.kind == "real":
        pytest.skip("the wording of the stand-in")
    text = "\n".join(document["text"] for documents in corpora.documents.values() for document in documents)
    assert "in a place. It is 5 kilometres long here." in text
    assert 'Said "so".' in text and " sign. " in text and "It is also called " in text
    for absent in (
        "The sum",
        "cell",
        "caption",
        "list item",
        "Infobox",
        "no more",
        "Undefined",
        "Old",
        "REDIRECT",
        "Category",
    ):
        assert absent not in text, absent


def test_missing_inputs_are_named_with_the_command_that_fetches_them(tmp_path):
    (tmp_path / "hp.obo").write_text("")
    process = run_tool(tmp_path, tmp_path / "out")
    assert process.returncode == 1 and not (tmp_path / "out").exists()
    assert "lee_background.cor, enwiki.xml.bz2 not found" in process.stderr
    assert "scripts/fetch-demo-assets text" in process.stderr


def test_a_file_that_is_no_ontology_is_refused(tmp_path):
    write_stand_in(tmp_path / "text")
    (tmp_path / "text" / "hp.obo").write_text("nothing here\n")
    process = run_tool(tmp_path / "text", tmp_path / "out")
    assert process.returncode == 1 and "no [Term] stanza" in process.stderr
