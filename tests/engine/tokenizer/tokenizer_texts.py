"""Texts on which tokenizers differ when anything about them is wrong, and a corpus to train small ones on."""

from __future__ import annotations

import itertools

CODE = [
    "def f(x):\n    return x ** 2  # squared\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2.5e-3f; }",
    'fn main() -> Result<(), Box<dyn Error>> {\n\tprintln!("{:?}", v);\n\tOk(())\n}',
    "SELECT * FROM t WHERE a >= 10 AND b LIKE '%x%';",
    "#include <vector>\r\n#define MAX(a,b) ((a)>(b)?(a):(b))\r\n",
    "const f = async () => { await fetch(`/api/${id}?q=${q}`); };",
    "<div class=\"a b\" id='c'>&nbsp;&amp;</div><!-- x -->",
    '{"a": [1, 2.5, -3e10, null, true], "b": {"c": "\\u00e9\\n"}}',
    "0xDEADBEEF 0b1010 1_000_000 .5 5. 1e9",
    "$ ls -la | grep '^d' && echo \"$HOME\" > /dev/null 2>&1",
    "a\\b\\c C:\\Users\\x ../../etc ~/.bashrc",
    "\\begin{align} \\frac{a}{b} &= \\sqrt{x_1^2} \\\\ \\end{align}",
    "    if x:\n        y\n    else:\n\n\n        z\n\t\t\tw",
    "camelCaseWords snake_case_words kebab-case-words SCREAMING_CASE XMLHttpRequest iPhone15Pro",
]
EMOJI = [
    "😀",
    "👩‍👩‍👧‍👦 family",
    "👍🏽 thumbs 👍🏿",
    "🏳️‍🌈🏴‍☠️",
    "🇫🇷🇩🇪",
    "1️⃣2️⃣#️⃣",
    "hi😀there🎉!",
    "❤️ vs ❤",
    "🫠🪿🛜",
    "a\u200db\u200cc\ufeffd",
]
SCRIPTS = [
    "你好，世界！今天天气怎么样？",
    "日本語のテキスト、カタカナとひらがな。",
    "한국어 문장입니다. 안녕하세요!",
    "ㄱㄴㄷ 각 가",
    "繁體中文與简体中文123混合English",
    "Привет, мир! Как дела? Ёлка",
    "Γειά σου Κόσμε άέήίό",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣",
    "שלום עולם! מה שלומך?",
    "हिन्दी में एक वाक्य। १२३",
    "ภาษาไทยไม่มีช่องว่าง",
    "Tiếng Việt có dấu: ạ ả ấ ầ ẩ ẫ",
    "ქართული ენა, Հայերեն",
    "ሰላም ለዓለም",
    "naïve café résumé façade Ångström",
    "straße STRASSE ŒUVRE ﬁne ǅ ŉ",
    "e\u0301 o\u0308 n\u0303 a\u030a\u0301 composed é ö ñ",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳",
    "𝓗𝓮𝓵𝓵𝓸 𝟙𝟚𝟛 Ⅷ ½ ² ³ ₁ ①",
    "𐍈 𒀀 𓀀",
    "abc\u0000def\u0001\u001f\u007f\u0085",
    "\u202eright to left\u202c \u2066x\u2069",
]
SPACES = [
    "",
    " ",
    "  ",
    "   ",
    " a",
    "  a",
    "a ",
    "a  ",
    "a  b   c    d     e      f",
    " " * 17 + "x",
    "x" + " " * 40 + "y",
    "\n",
    "\n\n",
    "\n\n\n\nx",
    "a\nb\n\nc\n\n\nd",
    "a \n b \n\n  c",
    "\t",
    "\ta\t\tb\t\t\tc",
    "a\r\nb\r\n\r\nc\rd",
    " \t \n \r\n ",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\u2029g",
    "\u00a0\u00a0x",
    "x \u3000 y",
    "end with newline\n",
    "end with spaces   \n   ",
    "▁ ▁▁ a▁b",
]
NUMBERS = [
    "0",
    "7",
    "12",
    "123",
    "1234",
    "12345678901234567890",
    "1,234,567.89",
    "3.14159",
    " 42",
    "a1b22c333d4444",
    "2024-01-31T23:59:59Z",
    "v1.2.3-rc.4+build5",
    "+1 (555) 010-9999",
    "100% of $5.00 = €4,50",
    "1st 2nd 3rd 10th",
    "ⅣⅤ ٣٤٥ ४५६ ５６７ ๑๒๓",
]
WORDS = [
    "Hello world",
    "Hello, world!",
    "The capital of France is",
    "I'm you're he's we'll they've I'd can't won't",
    "I'M YOU'RE HE'S WE'LL THEY'VE I'D CAN'T",
    "it's 's 't 're 've 'm 'll 'd ' '' 'S 'Re",
    "’s don’t “quoted” ‘single’ — dash – en … ellipsis",
    "???!!! ... --- === *** ### @@@ ~~~ ^^^",
    "a.b,c;d:e!f?g(h)i[j]k{l}m<n>o/p|q\\r",
    "https://example.com/a/b?c=d&e=f#g user@example.com",
    "The quick brown fox jumps over the lazy dog.",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababababababab",
    "MiXeD cAsE tExT WITH CAPS and tHEN",
    "£100 ¥200 ₹300 ©2024 ®™ §4 ¶ † ‡ • ° ± × ÷ ≠ ≤ ∞ ∑ √ ∫",
    "$a + $b = <c> ^d ~e `f` |g|",
    "/path/to\n//comment\n/* block\n*/",
]
SPECIAL = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>",
    "a<|endoftext|>b",
    " <|endoftext|> ",
    "<|endoftext|><|endoftext|>",
    "<s>[INST] hi [/INST]</s>",
    "<s> a</s> b",
    "<unk> x <pad>",
    "<|im_start|",
    "<|im_start |>",
    "<0x0A> <0xFF>",
    "<repo_name>x<file_sep>y<issue_start>",
]


def _mixed() -> list[str]:
    parts = [*CODE[:8], *EMOJI[:6], *SCRIPTS[:12], *SPACES[4:14], *NUMBERS[4:12], *WORDS[:10], *SPECIAL[:4]]
    mixes = [a + b for a, b in itertools.pairwise(parts)] + [
        a + " " + b for a, b in itertools.pairwise(parts[::-1])
    ]
    return [*mixes, " ".join(WORDS), "\n".join(CODE), "".join(SCRIPTS), "".join(EMOJI), " ".join(NUMBERS) * 5]


TEXTS = list(dict.fromkeys([*CODE, *EMOJI, *SCRIPTS, *SPACES, *NUMBERS, *WORDS, *SPECIAL, *_mixed()]))
PLAIN_TEXTS = [text for text in TEXTS if "<" not in text]
CORPUS = [*CODE, *EMOJI, *SCRIPTS, *NUMBERS, *WORDS] * 3 + [" ".join(WORDS), "\n".join(CODE)] * 5
assert len(TEXTS) >= 200
