"""How a chunk between white space is cut into words: the rules of spaCy's English tokenizer, version 3.

A chunk that is a known contraction or abbreviation is taken as such. Otherwise prefixes and suffixes are
taken off, one at a time, until nothing changes; what is left is a known form, a URL, or cut at its infixes.

Honnibal et al., spaCy; its documentation, "Linguistic features: how spaCy's tokenizer works".
"""

import re
import sys

LONGEST_CHUNK = 1000
_TERMINALS = (  # Unicode property Sentence_Terminal
    "!.?"
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d-\u083e\u0964-\u0965\u104a-\u104b"
    "\u1362\u1367-\u1368\u166e\u1735-\u1736\u17d4-\u17d6\u17d9-\u17da\u1803\u1809\u1944-\u1945\u1aa8-"
    "\u1aab\u1b5a-\u1b5b\u1b5e-\u1b5f\u1b7d-\u1b7e\u1c3b-\u1c3c\u1c7e-\u1c7f\u203c-\u203d\u2047-\u2049"
    "\u2e2e\u2e3c\u2e53-\u2e54\u3002\ua4ff\ua60e-\ua60f\ua6f3\ua6f7\ua876-\ua877\ua8ce-\ua8cf\ua92f"
    "\ua9c8-\ua9c9\uaa5d-\uaa5f\uaaf0-\uaaf1\uabeb\ufe52\ufe56-\ufe57\uff01\uff0e\uff1f\uff61\U00010a56"
    "-\U00010a57\U00010f55-\U00010f59\U00010f86-\U00010f89\U00011047-\U00011048\U000110be-\U000110c1"
    "\U00011141-\U00011143\U000111c5-\U000111c6\U000111cd\U000111de-\U000111df\U00011238-\U00011239"
    "\U0001123b-\U0001123c\U000112a9\U0001144b-\U0001144c\U000115c2-\U000115c3\U000115c9-\U000115d7"
    "\U00011641-\U00011642\U0001173c-\U0001173e\U00011944\U00011946\U00011a42-\U00011a43\U00011a9b-"
    "\U00011a9c\U00011c41-\U00011c42\U00011ef7-\U00011ef8\U00011f43-\U00011f44\U00016a6e-\U00016a6f"
    "\U00016af5\U00016b37-\U00016b38\U00016b44\U00016e98\U0001bc9f\U0001da88"
)
_LETTERS = [chr(code) for code in range(0x10000) if chr(code).isalpha()]


def _ranges(letters: list[str]) -> str:
    """Letters as ranges of a regular expression's character class."""
    parts: list[str] = []
    codes = [ord(letter) for letter in letters]
    start = previous = codes[0]
    for code in [*codes[1:], sys.maxunicode + 1]:
        if code != previous + 1:
            parts.append(f"\\U{start:08x}-\\U{previous:08x}")
            start = code
        previous = code
    return "".join(parts) + "\\U00020000-\\U0002fa1f"


SENTENCE_ENDS = frozenset(re.findall(f"[{_TERMINALS}]", "".join(map(chr, range(0x20000)))))
_ALPHA = _ranges(_LETTERS)
_LOWER = _ranges([letter for letter in _LETTERS if not letter.isupper()])
_UPPER = _ranges([letter for letter in _LETTERS if not letter.islower()])
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_ICONS = "¦©®°҂␀-␦①-ⓩ─-►◂-◷☀-♮♰-❧➔-➿⬀-⯾←-↔↕-⇿⌀-⏿⠀-⣿﷽￤￨￭￮￼�\U0001f000-\U0001faff"
_HYPHENS = "---|--|——|[-–—~]"
_UNITS = (
    "km²|km³|km/h|km|m²|m³|m/s|m|dm²|dm³|dm|cm²|cm³|cm|mm²|mm³|mm|ha|µm|nm|yd|in|ft|kg|g|mg|µg|t|lb|oz|kmh|mph|hPa"
    "|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|%|км²|км³|км/ч|км|м²|м³|м/с|м|см|мм|нм|кг|г|мг|кПа|Па|кб|Кб|мб|Мб|гб|Гб"
)
_CURRENCY = r"US\$|[CA]\$|[$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₸₹₺]"
_QUOTE_CLASS, _PUNCTUATION_CLASS = re.escape(_QUOTES), re.escape(_PUNCTUATION)

_PREFIX = re.compile(
    rf"§|%|=|[—–]|\+(?![0-9])|……|[{_PUNCTUATION_CLASS}]|\.\.+|[{_QUOTE_CLASS}]|{_CURRENCY}|[{_ICONS}]"
)
_SUFFIX = re.compile(
    rf"(?:……|[{_PUNCTUATION_CLASS}{_QUOTE_CLASS}{_ICONS}—–]|\.\.+|['’][sS]|(?<=[0-9])\+|(?<=°[FfCcKk])\."
    rf"|(?<=[0-9])(?:{_CURRENCY})|(?<=[0-9])(?:{_UNITS})"
    rf"|(?<=[0-9{_LOWER}%²\-+{_PUNCTUATION_CLASS}|{_QUOTE_CLASS}])\.|(?<=[{_UPPER}][{_UPPER}])\.)\Z"
)
_INFIX = re.compile(
    rf"\.\.+|…|[{_ICONS}]|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?<=[{_LOWER}{_QUOTE_CLASS}])\.(?=[{_UPPER}{_QUOTE_CLASS}])"
    rf"|(?<=[{_ALPHA}]),(?=[{_ALPHA}])|(?<=[{_ALPHA}0-9])(?:{_HYPHENS})(?=[{_ALPHA}])"
    rf"|(?<=[{_ALPHA}0-9])[:<>=/](?=[{_ALPHA}])"
)
_BYTE = r"\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])"
_ADDRESS = rf"(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3]){_BYTE}{_BYTE}{_BYTE}"
_LABEL = r"(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]{0,62})?[A-Za-z0-9\u00a1-\uffff]\."
_URL = re.compile(
    rf"(?:[\w+\-.]{{2,}}://)?(?:[^\s@]+@)?(?:{_ADDRESS}|(?:{_LABEL})+[{_LOWER}]{{2,63}})"
    r"(?::\d{2,5})?(?:[/?#]\S*)?(?<=[\w/])\Z"
)
_PLAIN = re.compile(r"\w|[^\w\s]+")


_PRONOUNS = ("i", "you", "he", "she", "it", "we", "they")
_ASKING = ("who", "what", "when", "where", "why", "how", "there", "that", "this", "these", "those")
_NEGATED = "ca could do does did had may might must need ought sha should wo would"
_NOT_CONTRACTIONS = "ill its hell shell shed were well whore lets"
_SINGLE = (
    "'S 's ‘S ‘s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout 'em ’em 'll 'nuff 'd "
    "ma'am Ma'am o'clock O'clock lovin' Lovin' havin' Havin' doin' Doin' goin' Goin' nothin' Nothin' "
    "ol' Ol' somethin' Somethin' ' '' C++ Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. "
    "Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. "
    "Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. "
    "Va. Wash. Wis. a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. "
    "Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. :) :-) ;) "
    ";-) :( :-( :D :-D :P :-P :/ :| <3 ^_^ -_- o_O O_o XD xD"
)


def _contractions() -> dict[str, tuple[str, ...]]:
    more: tuple[tuple[str, ...], ...] = ((), ("'ve",))
    forms: list[tuple[str, ...]] = [
        ("i", "'m"),
        ("i", "'m", "a"),
        ("let", "'s"),
        ("y'", "all"),
        ("not", "'ve"),
    ]
    forms += [(word, "'ll", *end) for word in (*_PRONOUNS, *_ASKING) for end in more]
    forms += [(word, "'d", *end) for word in (*_PRONOUNS, *_ASKING) for end in more]
    forms += [(word, "'ve") for word in ("i", "you", "we", "they", *_ASKING)]
    forms += [(word, "'re") for word in ("you", "we", "they", *_ASKING)]
    forms += [(word, "'s") for word in ("he", "she", "it", *_ASKING)]
    forms += [(verb, "n't", *end) for verb in _NEGATED.split() for end in more]
    forms += [(verb, "n't") for verb in ("ai", "are", "is", "was", "were", "have", "has", "dare")]
    forms += [(verb, "'ve") for verb in ("could", "might", "must", "should", "would")]
    known: dict[str, tuple[str, ...]] = {}
    for form in forms:
        for words in (form, (form[0].title(), *form[1:])):
            for mark in ("'", "’", ""):
                parts = tuple(part.replace("'", mark) for part in words)
                known["".join(parts)] = parts
    for word in _NOT_CONTRACTIONS.split():
        known.pop(word, None)
        known.pop(word.title(), None)
    return known


def _known_forms() -> dict[str, tuple[str, ...]]:
    known = _contractions()
    for first, second in (("can", "not"), ("gon", "na"), ("got", "ta")):
        known |= {first + second: (first, second), first.title() + second: (first.title(), second)}
    for hour in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            known[f"{hour}{half}"] = (str(hour), half)
    known |= {word: (word,) for word in _SINGLE.split()}
    known |= {f"{letter}.": (f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyzäöü"}
    return known


_KNOWN = _known_forms()


def split_chunk(chunk: str) -> tuple[str, ...]:
    """Words of a text without white space.

    A chunk longer than LONGEST_CHUNK (never a word) is cut at every letter or run of symbols, in linear time.
    """
    if chunk in _KNOWN:
        return _KNOWN[chunk]
    if chunk.isalpha():
        return (chunk,)
    if len(chunk) > LONGEST_CHUNK:
        return tuple(_PLAIN.findall(chunk))
    core, prefixes, suffixes = _take_affixes(chunk)
    middle = _split_core(core) if core else ()
    return (*prefixes, *middle, *reversed(suffixes))


def _take_affixes(core: str) -> tuple[str, list[str], list[str]]:
    prefixes: list[str] = []
    suffixes: list[str] = []
    while core and core not in _KNOWN:
        prefix = _PREFIX.match(core)
        head = prefix.end() if prefix else 0
        if head and core[head:] in _KNOWN:
            prefixes.append(core[:head])
            return core[head:], prefixes, suffixes
        suffix = _SUFFIX.search(core, head)
        tail = suffix.start() if suffix else len(core)
        if suffix and core[:tail] in _KNOWN:
            suffixes.append(core[tail:])
            return core[:tail], prefixes, suffixes
        if not head and not suffix:
            break
        if head:
            prefixes.append(core[:head])
        if suffix:
            suffixes.append(core[tail:])
        core = core[head:tail]
    return core, prefixes, suffixes


def _split_core(core: str) -> tuple[str, ...]:
    if core in _KNOWN:
        return _KNOWN[core]
    if "." in core and _URL.match(core):
        return (core,)
    words: list[str] = []
    start = 0
    for infix in _INFIX.finditer(core):
        if infix.start() == 0:
            continue
        words += [part for part in (core[start : infix.start()], infix.group()) if part]
        start = infix.end()
    return (*words, core[start:]) if start < len(core) else tuple(words)
