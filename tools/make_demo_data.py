#!/usr/bin/env python3
"""Makes the demo's corpora: medical terms as the domain, encyclopedia and news as general text.

    tools/make_demo_data.py --text .cache/text --out .cache/demo-data

In (scripts/fetch-demo-assets puts them there):
    hp.obo                the Human Phenotype Ontology: terms with definition, synonyms, comment
    lee_background.cor    300 news articles, one a line
    enwiki.xml.bz2        Wikipedia articles in their markup
Out, JSON lines {"id", "text"}:
    domain_train, domain_heldout                     one document per term, split by term
    general_probe, general_replay, general_heldout   passages of a few paragraphs, split by article
    demo_data.json                                   hashes of the inputs, counts

The split follows a hash of each id, near-duplicates go to one side together, and every file is in hash order, so that
its first documents are a fair sample of it. The same inputs give the same bytes. Python's standard library only.
"""

import argparse
import bz2
import collections
import hashlib
import html
import json
import pathlib
import re
import sys
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import wikitext  # noqa: E402

INPUTS = ("hp.obo", "lee_background.cor", "enwiki.xml.bz2")
DOMAIN_SPLIT = (("domain_heldout", 0.05), ("domain_train", 0.95))
GENERAL_SPLIT = (("general_probe", 0.10), ("general_heldout", 0.20), ("general_replay", 0.70))
PASSAGE_CHARACTERS = 2000
SAME_WORDS = 0.7  # definitions with this share of words in common count as one


class InputError(Exception):
    """An input that is missing or does not hold what it should."""


# ---- the ontology ----------------------------------------------------------------------------------------------------


def unescape_obo(text):
    """OBO 1.4 escapes (https://owlcollab.github.io/oboformat/doc/obo-syntax.html), and HTML's, which are there too."""
    return html.unescape(re.sub(r"\\(.)", lambda match: " " if match.group(1) in "nWt" else match.group(1), text))


def read_obo_terms(path):
    """The [Term] stanzas, each a dict from tag to its list of values."""
    terms, term = [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            term = collections.defaultdict(list) if line == "[Term]" else None
            if term is not None:
                terms.append(term)
        elif term is not None and ": " in line:
            tag, value = line.split(": ", 1)
            term[tag].append(value)
    if not terms:
        raise InputError(f"{path}: no [Term] stanza found; expected an ontology in OBO format")
    return terms


CITATION = re.compile(
    r"PMID|PMC\d|https?:|www\.|doi:|DOI|ISBN|OMIM:|ORPHA|HP:\d|UMLS|HPO:|UBERON|GO:\d|MP:\d|SNOMED|"
    r"xref|orcid|\]\]|\[\[",
    re.I,
)


def without_citations(text):
    """Plain sentences: bracketed citations go, and so does a sentence that still holds one."""
    text = re.sub(r"\s*\{[^{}]*=[^{}]*\}\s*$", "", unescape_obo(text))
    text = re.sub(r"\s*[(\[][^()\[\]]*(?:%s)[^()\[\]]*[)\]]" % CITATION.pattern, "", text, flags=re.I)
    text = re.sub(r"\s*\[(?:[^\[\]]*\D)?(?:19|20)\d\d[a-z]?\]", "", text)  # [Author et al., 1981]
    text = re.sub(r"</?[a-zA-Z]+/?>", "", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:)])(?=\W|$)", r"\1", text)
    text = re.sub(r"\(\s+", "(", text)
    text = re.sub(r"(?<!\.)\.(?:,|\.)(?=\s|$)|(?<!\.)\.\.,", lambda match: ".," if "," in match.group() else ".", text)
    text = re.sub(r"(?<=[a-z)]\.)(?=[A-Z][a-z])", " ", text)
    sentences = [part for part in wikitext.split_sentences(text) if not CITATION.search(part)]
    return as_sentence(" ".join(sentences))


def as_sentence(text):
    if not text:
        return ""
    return text if re.search(r"[.!?][\"')\]]?$", text) else text.rstrip(",;:. ") + "."


def synonyms_of(term):
    """Other names, in file order: exact ones and related ones; spelling variants and obsolete names left out."""
    exact, related, known = [], [], {term["name"][0].lower()}
    for value in term["synonym"]:
        match = re.match(r'"((?:[^"\\]|\\.)*)" (EXACT|BROAD|NARROW|RELATED)\s*([\w:]*)', value)
        if not match or match.group(3) in ("obsolete_synonym", "uk_spelling", "plural_form"):
            continue
        name = re.sub(r"\s+", " ", unescape_obo(match.group(1))).strip()
        if name.lower() in known or CITATION.search(name):
            continue
        known.add(name.lower())
        (exact if match.group(2) == "EXACT" else related).append(name)
    return exact, related


def enumeration(names, conjunction):
    """a; a or b; a, b, or c. A name that holds a comma itself is quoted."""
    names = [f'"{name}"' if "," in name else name for name in names]
    if len(names) <= 2:
        return f" {conjunction} ".join(names)
    return f"{', '.join(names[:-1])}, {conjunction} {names[-1]}"


def lower_first(name, vocabulary):
    """Inside a sentence; a proper name or an abbreviation, which the ontology never writes small, keeps its capital."""
    word = re.match(r"\w*", name).group()
    return word.lower() + name[len(word) :] if word.lower() in vocabulary else name


def quoted(field):
    """The text of a quoted OBO value such as a definition, citations and escapes included; empty if there is none."""
    match = re.match(r'"((?:[^"\\]|\\.)*)"', field[0]) if field else None
    return match.group(1) if match else ""


def term_text(term, vocabulary):
    """One term as running text; empty where the ontology has no definition of it."""
    definition = without_citations(quoted(term["def"]))
    if len(definition) < 15:
        return ""
    sentences = [as_sentence(term["name"][0]), definition[0].upper() + definition[1:]]
    exact, related = synonyms_of(term)
    if exact:
        sentences.append(f"It is also called {enumeration([lower_first(name, vocabulary) for name in exact], 'or')}.")
    if related:
        names = enumeration([lower_first(name, vocabulary) for name in related], "and")
        sentences.append(f"A related term is {names}." if len(related) == 1 else f"Related terms are {names}.")
    for comment in term["comment"]:
        comment = without_citations(comment)
        if comment:
            sentences.append(comment[0].upper() + comment[1:])
    return " ".join(sentences)


def ontology_documents(path):
    """(id, group key texts, text) of every term that is in use and defined."""
    documents, skipped = [], collections.Counter()
    terms = read_obo_terms(path)
    vocabulary = {word for term in terms for word in re.findall(r"\b[a-z]\w+", quoted(term["def"]))}
    for term in terms:
        if "is_obsolete" in term:
            skipped["obsolete"] += 1
            continue
        text = term_text(term, vocabulary)
        if not text:
            skipped["no definition"] += 1
            continue
        documents.append((term["id"][0], [quoted(term["def"])] + term["comment"], text))
    return documents, skipped


# ---- near-duplicates -------------------------------------------------------------------------------------------------


def word_set(text):
    return frozenset(re.findall(r"\w+", text.lower()))


class Groups:
    """Disjoint sets, named by their smallest member."""

    def __init__(self, members):
        self.parent = {member: member for member in members}

    def find(self, member):
        while self.parent[member] != member:
            self.parent[member] = self.parent[self.parent[member]]
            member = self.parent[member]
        return member

    def join(self, one, other):
        one, other = sorted((self.find(one), self.find(other)))
        self.parent[other] = one


def similar_pairs(sets, threshold):
    """All pairs of word sets with Jaccard similarity >= threshold (prefix filter: Chaudhuri et al. 2006)."""
    frequency = collections.Counter(word for words in sets.values() for word in words)
    index = collections.defaultdict(list)
    for key in sorted(sets, key=lambda key: (len(sets[key]), key)):
        words = sorted(sets[key], key=lambda word: (frequency[word], word))
        prefix = words[: len(words) - -int(-threshold * len(words) // 1) + 1]
        candidates = {other for word in prefix for other in index[word] if len(sets[other]) >= threshold * len(words)}
        for other in candidates:
            common = len(sets[key] & sets[other])
            if common >= threshold * (len(words) + len(sets[other]) - common):
                yield key, other
        for word in prefix:
            index[word].append(key)


def group_near_duplicates(documents):
    """From each id to the smallest id of its group: similar definitions, or the same comment."""
    groups = Groups(identity for identity, _, _ in documents)
    for one, other in similar_pairs({identity: word_set(keys[0]) for identity, keys, _ in documents}, SAME_WORDS):
        groups.join(one, other)
    first_with = {}
    for identity, keys, _ in documents:
        for key in keys[1:]:
            groups.join(identity, first_with.setdefault(word_set(key), identity))
    return {identity: groups.find(identity) for identity, _, _ in documents}


# ---- general text ----------------------------------------------------------------------------------------------------


def passages(paragraphs):
    """Consecutive paragraphs joined to documents of about PASSAGE_CHARACTERS."""
    passage, length = [], 0
    for paragraph in paragraphs:
        passage.append(paragraph)
        length += len(paragraph)
        if length >= PASSAGE_CHARACTERS:
            yield "\n\n".join(passage)
            passage, length = [], 0
    if length >= 200:
        yield "\n\n".join(passage)


def wikipedia_documents(path):
    """(id, group, text) of passages; redirects, disambiguation pages and lists are left out."""
    documents, skipped = [], collections.Counter()
    with bz2.open(path) as file:
        for _, element in xml.etree.ElementTree.iterparse(file):
            if not element.tag.endswith("}page"):
                continue
            title = element.findtext("{*}title", "")
            if element.find("{*}redirect") is not None:
                skipped["redirect"] += 1
            elif element.findtext("{*}ns") != "0" or re.match(r"List of|.*\(disambiguation\)$", title):
                skipped["list or disambiguation"] += 1
            else:
                article = f"wiki:{element.findtext('{*}id')}"
                found = list(passages(wikitext.prose(element.findtext("{*}revision/{*}text") or "")))
                skipped["no prose"] += not found
                documents += [(f"{article}/{number}", article, text) for number, text in enumerate(found)]
            element.clear()
    return documents, skipped


def news_documents(path):
    """(id, group, text), one article a line; articles that tell the same story form one group."""
    articles = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        text = re.sub(r"\s+", " ", line).strip()
        if text:
            articles[f"news:{number:03d}"] = text
    groups = Groups(articles)
    for one, other in similar_pairs({identity: word_set(text) for identity, text in articles.items()}, 0.5):
        groups.join(one, other)
    return [(identity, groups.find(identity), text) for identity, text in articles.items()]


# ---- splitting and writing -------------------------------------------------------------------------------------------


def fraction(text):
    """A number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split(documents, parts):
    """Documents (id, group, text) into named parts by the hash of their group, each in hash order of the ids."""
    result = {name: [] for name, _ in parts}
    for identity, group, text in sorted(documents, key=lambda document: fraction("order:" + document[0])):
        position = fraction("split:" + group)
        for name, share in parts:
            if position < share or name == parts[-1][0]:
                result[name].append((identity, text))
                break
            position -= share
    return result


def write_jsonl(path, documents):
    lines = [json.dumps({"id": identity, "text": text}, ensure_ascii=False) + "\n" for identity, text in documents]
    path.write_text("".join(lines), encoding="utf-8")


def make(text_folder, out_folder):
    """Reads the inputs, writes the corpora; returns the rows of the count table and what was skipped."""
    missing = [name for name in INPUTS if not (text_folder / name).is_file()]
    if missing:
        raise InputError(f"{text_folder}: {', '.join(missing)} not found; run scripts/fetch-demo-assets text")
    terms, skipped_terms = ontology_documents(text_folder / "hp.obo")
    groups = group_near_duplicates(terms)
    domain = split([(identity, groups[identity], text) for identity, _, text in terms], DOMAIN_SPLIT)
    articles, skipped_articles = wikipedia_documents(text_folder / "enwiki.xml.bz2")
    general = split(articles + news_documents(text_folder / "lee_background.cor"), GENERAL_SPLIT)
    out_folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, documents in {**domain, **general}.items():
        if not documents:
            raise InputError(f"{text_folder}: nothing is left for {name}; the inputs hold too little text")
        write_jsonl(out_folder / f"{name}.jsonl", documents)
        text = [text for _, text in documents]
        rows.append(
            (name, len(documents), sum(len(part.split()) for part in text), sum(len(part.encode()) for part in text))
        )
    skipped = {f"terms, {reason}": count for reason, count in skipped_terms.items()}
    skipped |= {f"articles, {reason}": count for reason, count in skipped_articles.items() if count}
    record = {
        "inputs": {name: hashlib.sha256((text_folder / name).read_bytes()).hexdigest() for name in INPUTS},
        "files": [dict(zip(("name", "documents", "words", "bytes"), row)) for row in rows],
        "skipped": skipped,
    }
    (out_folder / "demo_data.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return rows, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--text", type=pathlib.Path, default=".cache/text", help="folder of the inputs")
    parser.add_argument("--out", type=pathlib.Path, default=".cache/demo-data", help="folder to write to")
    arguments = parser.parse_args()
    try:
        rows, skipped = make(arguments.text, arguments.out)
    except (InputError, OSError, UnicodeDecodeError, xml.etree.ElementTree.ParseError) as error:
        print(f"make_demo_data: {error}", file=sys.stderr)
        return 1
    print(f"{'file':<24}{'documents':>10}{'words':>12}{'bytes':>12}")
    for name, documents, words, size in rows:
        print(f"{name + '.jsonl':<24}{documents:>10,}{words:>12,}{size:>12,}")
    print("skipped: " + "; ".join(f"{count:,} {reason}" for reason, count in skipped.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
