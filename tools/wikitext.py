"""Wikipedia markup to clean prose.

Only what reads as prose is kept: whole sentences of running paragraphs. Headings, lists, tables, captions, references
and notes go; inline templates whose text is known (units, foreign words, dates) are written out; a sentence that holds
anything else that cannot be written as plain text (a formula, an unknown template) is dropped whole, so that no
sentence is left with a hole in it. The markup: https://www.mediawiki.org/wiki/Help:Formatting and Help:Templates.
"""

import html
import re

HOLE = "\x00"  # stands for something that cannot be written as text; the sentence around it is dropped

BLOCKS_WITHOUT_TEXT = ("gallery", "timeline", "references", "poem", "imagemap", "onlyinclude", "score")
BLOCKS_AS_HOLES = ("math", "chem", "code", "source", "syntaxhighlight", "nowiki", "pre", "tt", "s", "hiero")
SECTIONS_WITHOUT_PROSE = re.compile(
    r"references|external links|see also|notes|further reading|bibliography|footnotes|sources|citations|works cited|"
    r"notes and references|other uses|gallery|filmography|discography|publications|selected works|works",
    re.IGNORECASE,
)

# Templates that show nothing in the running text, or only a note mark.
SILENT_TEMPLATES = re.compile(
    r"(cit|cn$|fact$|sfn|harv|rp$|refn|efn|ref |ref$|r$|note|dead link|web ?archive|wayback|main|see|further|about|"
    r"for$|other|redirect|distinguish|hatnote|clear|use |pp-|reflist|refbegin|refend|ipa|respell|pron|audio|clarify|"
    r"when$|"
    r"who|which|by whom|where|why|how$|page needed|dubious|disputed|better source|not in citation|failed ver|"
    r"verif|vague|update|portal|infobox|taxobox|good article|featured article|inconsistent citations|elucidate|"
    r"full|specify|according to whom|quantify|original research|or$|pov|npov|peacock|weasel|unreferenced|refimprove|"
    r"more footnotes|anchor|coord|contradict|undue|lead|tone|default|toc|self-pub|third-party|unreliable|"
    r"neologism|attribution|expand|empty|inline|discuss|subscription|registration|isbn|google books|-$)"
)
FIRST_ARGUMENT = {
    "nowrap",
    "small",
    "smaller",
    "big",
    "larger",
    "nobold",
    "nobr",
    "vanchor",
    "sc",
    "smallcaps",
    "nihongo",
    "val",
    "abbr",
    "visible anchor",
    "title",
    "em",
    "strong",
    "keypress",
    "linktext",
    "angle bracket",
}
LAST_ARGUMENT = {"lang", "transl", "transliteration"}
UNITS = {
    "km": "kilometres",
    "m": "metres",
    "cm": "centimetres",
    "mm": "millimetres",
    "mi": "miles",
    "ft": "feet",
    "in": "inches",
    "yd": "yards",
    "nmi": "nautical miles",
    "km2": "square kilometres",
    "sqkm": "square kilometres",
    "sqmi": "square miles",
    "mi2": "square miles",
    "ha": "hectares",
    "acre": "acres",
    "acres": "acres",
    "kg": "kilograms",
    "lb": "pounds",
    "g": "grams",
    "oz": "ounces",
    "t": "tonnes",
    "C": "°C",
    "F": "°F",
    "K": "kelvins",
    "km/h": "kilometres per hour",
    "mph": "miles per hour",
    "L": "litres",
    "l": "litres",
    "USgal": "gallons",
    "m2": "square metres",
    "sqft": "square feet",
    "m3": "cubic metres",
    "ST": "short tons",
    "LT": "long tons",
}
RANGES = {"-": "–", "–": "–", "x": " by ", "to(-)": " to "}
RANGES.update({word: f" {word} " for word in ("to", "and", "by", "or")})
SUPERSCRIPTS = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")


def convert_template(arguments):
    """{{convert|5|km|mi}}: the value as given, with its unit in words; the conversion is left out."""
    number = re.compile(r"[-−]?[\d,.]+(?:/\d+)?$")
    if len(arguments) >= 4 and arguments[1] in RANGES and number.match(arguments[0]) and number.match(arguments[2]):
        value, unit = arguments[0] + RANGES[arguments[1]] + arguments[2], arguments[3]
    elif len(arguments) >= 2 and number.match(arguments[0]):
        value, unit = arguments[0], arguments[1]
    else:
        return HOLE
    if unit not in UNITS:
        return HOLE
    if any(argument.replace(" ", "") == "adj=on" for argument in arguments):
        return f"{value}-{UNITS[unit].rstrip('s') if unit not in ('ft', 'in') else {'ft': 'foot', 'in': 'inch'}[unit]}"
    return f"{value} {UNITS[unit]}"


def expand_template(match):
    """What one innermost {{...}} shows in running text: its text, nothing, or a hole."""
    arguments = [part.strip() for part in match.group(1).split("|")]
    name = re.sub(r"[\s_]+", " ", arguments[0]).strip().lower()
    positional = [argument for argument in arguments[1:] if not re.match(r"[\w -]+\s*=", argument)]
    if name in ("convert", "cvt"):
        return convert_template(arguments[1:])
    if name in FIRST_ARGUMENT:
        return positional[0] if len(positional) == 1 or name == "nihongo" and positional else HOLE
    if name in LAST_ARGUMENT:
        return positional[-1] if len(positional) >= 2 else HOLE
    if name in ("as of", "asof"):
        start = arguments[0][0] if "lc=y" not in arguments else "a"
        return f"{start}s of {positional[0]}" if len(positional) == 1 else HOLE
    if name in ("circa", "c.", "ca"):
        return f"c. {positional[0]}" if len(positional) == 1 else HOLE
    if name == "frac":
        return "/".join(positional) if len(positional) == 2 else HOLE
    if name == "chem":
        return "".join(positional)
    if name.startswith("formatnum:"):
        return arguments[0].split(":", 1)[1]
    if name in ("ndash", "spaced ndash", "snd", "spnd"):
        return " – "
    if name in ("mdash", "em dash"):
        return "—"
    if name in ("nbsp", "space", "thinsp"):
        return " "
    if name == "'":
        return "'"
    return "" if SILENT_TEMPLATES.match(name) else HOLE


def show_link(match):
    """The text that one innermost [[...]] shows."""
    target, *rest = match.group(1).split("|")
    prefix, colon, _ = target.partition(":")
    if colon and prefix.strip().lower() in ("file", "image", "category", "special", "media"):
        return ""
    if colon and re.fullmatch(r"[a-z]{2,3}(-[a-z]+)?|simple", prefix) and not rest:
        return ""  # the same article in another language
    shown = rest[-1] if rest else target.lstrip(":")
    return shown if shown.strip() else re.sub(r"^\w+:|\s*\([^)]*\)$", "", target)


def repeat(pattern, replacement, text):
    """Substitutes from the inside out until nothing changes."""
    count = 1
    while count:
        text, count = pattern.subn(replacement, text)
    return text


def remove_blocks(text):
    """Comments, references and blocks that are not prose."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<ref\b[^<>]*/>", "", text, flags=re.IGNORECASE)
    text = re.sub(r"<ref\b[^<>]*>.*?</ref\s*>", "", text, flags=re.DOTALL | re.IGNORECASE)
    for names, replacement in ((BLOCKS_WITHOUT_TEXT, ""), (BLOCKS_AS_HOLES, HOLE)):
        for name in names:
            text = re.sub(rf"<{name}\b[^<>]*/>", replacement, text, flags=re.IGNORECASE)
            text = re.sub(rf"<{name}\b[^<>]*>.*?</{name}\s*>", replacement, text, flags=re.DOTALL | re.IGNORECASE)
    return text


def superscript(match):
    shown = match.group(1).strip()
    return (
        shown.translate(SUPERSCRIPTS)
        if re.fullmatch(r"[0-9+−n-]+", shown)
        else (shown if shown in ("st", "nd", "rd", "th") else HOLE)
    )


def remove_inline_markup(text):
    """Templates, tables, links, tags, entities and quotes; paragraphs and line starts stay."""
    text = repeat(re.compile(r"\{\{([^{}]*)\}\}"), expand_template, text)
    text = repeat(re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL), "\n", text)
    text = re.sub(r"\[(?:https?:|ftp:)?//[^\s\]]+\s*([^\[\]]*)\]", r"\1", text)
    text = repeat(re.compile(r"\[\[([^\[\]]*)\]\]"), show_link, text)
    text = re.sub(r"<sup\b[^<>]*>(.*?)</sup\s*>", superscript, text, flags=re.IGNORECASE)
    text = re.sub(r"<br\s*/?>", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"</?[a-zA-Z][^<>]*>", "", text)
    text = html.unescape(html.unescape(text))
    text = re.sub(r"'{2,}", "", text)
    text = re.sub(r"__[A-Z]+__", "", text)
    return re.sub(r"[\u00a0\u2009\u202f\u2002\u2003]", " ", text).replace("\u200b", "").replace("\u00ad", "")


ABBREVIATION = re.compile(
    r"(?:\b[A-Z]|\b(?:St|Dr|Mr|Mrs|Ms|c|ca|vs|No|e\.g|i\.e|etc|Jr|Sr|Gen|Col|Capt|Lt|Rev|fl|pp?|vol))\.$"
)


def split_sentences(paragraph):
    """Sentences of one paragraph; a full stop after an initial or a common abbreviation does not end one."""
    sentences = []
    for piece in re.split(
        r"(?<=[.!?])\s+(?=[\"“‘'(A-Z0-9\x00])|(?<=[.!?][\"”’')])\s+(?=[\"“‘'(A-Z0-9\x00])", paragraph
    ):
        if sentences and ABBREVIATION.search(sentences[-1]):
            sentences[-1] += " " + piece
        else:
            sentences.append(piece)
    return sentences


SENTENCE_END = re.compile(r"[.!?][\"”’')]*$")
LEFTOVER = re.compile(r"[\x00{}<>|]|\[\[|\]\]|https?:|www\.|==|\w=\"|\bISBN\b|\.(?:jpg|svg|png)\b", re.IGNORECASE)


def balanced(sentence):
    return sentence.count("(") == sentence.count(")") and sentence.count("[") == sentence.count("]")


def clean_paragraph(line):
    """One line of text as whole clean sentences; empty if nothing of it reads as prose."""
    line = re.sub(r"^\x00+(?=\S)", "", line)
    line = repeat(re.compile(r"\s*\([^()]*\x00[^()]*\)"), "", line)
    line = re.sub(r"\(\s*(?:(?:[,;:/]|or|and)\s*)+", "(", line)
    line = re.sub(r"(?:\s*[,;:])+\s*\)", ")", line)
    line = re.sub(r"(\w?);(?:\s*[;,])+", r"\1;", line)
    line = re.sub(r"\s*\(\s*\)|\s*\[\s*\]", "", line)
    line = re.sub(r"\s+", " ", line).strip()
    line = re.sub(r"\s+([,.;:!?)](?:\s|$))", r"\1", line)
    line = re.sub(r"([(])\s+", r"\1", line)
    kept = [
        sentence
        for sentence in split_sentences(line)
        if SENTENCE_END.search(sentence)
        and not LEFTOVER.search(sentence)
        and balanced(sentence)
        and sentence[0] not in ".,;:!?)"
        and len(sentence) >= 15
    ]
    return " ".join(kept)


def prose(markup, min_characters=80):
    """The prose paragraphs of one article, as a list of strings."""
    paragraphs, skipping = [], False
    for line in remove_inline_markup(remove_blocks(markup)).split("\n"):
        heading = re.match(r"\s*={2,}\s*(.*?)\s*={2,}\s*$", line)
        if heading:
            if not line.strip().startswith("==="):
                skipping = bool(SECTIONS_WITHOUT_PROSE.fullmatch(heading.group(1)))
            continue
        if skipping or re.match(r"\s*[=*#:;|!{}+]|-{4,}", line) or line.startswith(" "):
            continue
        paragraph = clean_paragraph(line)
        if len(paragraph) >= min_characters and paragraph[0].isupper() | (paragraph[0] in "\"“‘'0123456789"):
            paragraphs.append(paragraph)
    return paragraphs
