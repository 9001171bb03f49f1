"""Posts as they come from forums, and the rule on generated ones: what is typed outside a quote is in `own`."""

from __future__ import annotations

import re
import time
from html import escape
from html.parser import HTMLParser
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guard.scan.markup import Markup, Reduced, reduce
from guard.scan.markup.pieces import Pieces

MARKDOWN, BBCODE, HTML = Markup.MARKDOWN, Markup.BBCODE, Markup.HTML
READERS = (MARKDOWN, BBCODE, HTML)

POSTS = [  # markup, post, own, quoted
    (MARKDOWN, "Plain words, nothing else.", "Plain words, nothing else.", ()),
    (MARKDOWN, "> you are all wrong\n\nNo.", "No.", ("you are all wrong",)),
    (MARKDOWN, "> you are all wrong\nNo, you are.", "No, you are.", ("you are all wrong",)),
    (MARKDOWN, "&gt; it&#39;s over\n\nlol &amp;amp; bye", "lol & bye", ("it's over",)),
    (MARKDOWN, "> outer\n> > inner\n> outer again\n\nmine", "mine", ("outer\ninner\nouter again",)),
    (MARKDOWN, "> one\n\nfirst\n\n>two\n\nsecond", "first\nsecond", ("one", "two")),
    (MARKDOWN, ">!the butler did it!< sorry", "the butler did it sorry", ()),
    (MARKDOWN, "&gt;!the butler!&lt;\n> really?", "the butler", ("really?",)),
    (MARKDOWN, "this is ^tiny and ^(very small) x^2 ^_^", "this is tiny and (very small) x2 ^_^", ()),
    (MARKDOWN, "I ~~hate~~ love *you* and __them__", "I hate love you and them", ()),
    (MARKDOWN, "f**o**ol", "fool", ()),
    (MARKDOWN, "[click](http://evil.example/ü?a=b c) x", "[click](http://evil.example/ü?a=b c) x", ()),
    (MARKDOWN, '[click](http://evil.example/ü "the fool")', 'click (http://evil.example/ü "the fool")', ()),
    (MARKDOWN, "<http://a.example> http://b.example", "http://a.example http://b.example", ()),
    (MARKDOWN, "![fat cat](http://a.example/1.png)", "fat cat (http://a.example/1.png)", ()),
    (MARKDOWN, "[a][1]\n\n[1]: http://a.example 'fool'", "[a][1]\n\n[1]: http://a.example 'fool'", ()),
    (MARKDOWN, "```fool\n> not a quote\n```\nmine", "fool\n> not a quote\nmine", ()),
    (MARKDOWN, "    > code\n\nmine", "> code\nmine", ()),
    (MARKDOWN, "use `a > b` here", "use a > b here", ()),
    (MARKDOWN, "> ```\n> code\nmine\n", "mine", ("code",)),
    (MARKDOWN, "|who|what|\n|---|---|\n|you|fool|too many|", "|who|what|\n|you|fool|too many|", ()),
    (MARKDOWN, "# Title\n\n* one\n* two\n  > said\n\n1488. three", "Title\n\n- one\n- two\n1488. three", ("said",)),
    (MARKDOWN, "- one\n> said\n\nmine", "- one\nmine", ("said",)),
    (MARKDOWN, "- > said\nmine", "-\nmine", ("said",)),
    (MARKDOWN, "<b>you</b> <blockquote>said</blockquote> mine", "you\nmine", ("said",)),
    (MARKDOWN, "<blockquote>never closed\n\nmine", "never closed\n\nmine", ()),
    (MARKDOWN, "<!-- hidden --> <b class='fool'>x</b> <3", "<!-- hidden --> <b class='fool'>x <3", ()),
    (MARKDOWN, "one\\\ntwo  \nthree\r\nfour \\*five\\*", "one\ntwo\nthree\nfour *five*", ()),
    (MARKDOWN, "> only a quote", "", ("only a quote",)),
    (BBCODE, "[quote]you fool[/quote]Stop it", "Stop it", ("you fool",)),
    (BBCODE, "[QUOTE=Bob]you fool[/Quote]\nStop it", "Stop it", ("Bob: you fool",)),
    (BBCODE, '[quote="Bob, post: 1, member: 2"]fool[/quote]Stop', "Stop", ("Bob: fool",)),
    (BBCODE, "[quote=Bob;n1234]fool[/quote]Stop", "Stop", ("Bob: fool",)),
    (BBCODE, '[quote="[clan] Bob" post_id=1 time=2 user_id=3]fool[/quote]Stop', "Stop", ("[clan] Bob: fool",)),
    (BBCODE, "[quote author=Bob link=topic=1.msg2#msg2 date=3]fool[/quote]Stop", "Stop", ("Bob: fool",)),
    (BBCODE, "[quote]a[quote]b[/quote]c[/quote]d", "d", ("abc",)),
    (BBCODE, "[quote]a[quote]b[/quote]mine", "[quote]a\nmine", ("b",)),
    (BBCODE, "[quote]never closed, mine", "[quote]never closed, mine", ()),
    (BBCODE, "mine[/quote] mine", "mine[/quote] mine", ()),
    (BBCODE, "[b][i]you[/b][/i] [s]fool[/s] [u]x", "you fool x", ()),
    (BBCODE, "[color=#ff0000][size=\"5\"]BIG[/size][/color] [font=Comic Sans MS]f[/font]", "BIG f", ()),
    (BBCODE, "[u fool] [color=you fool]x[/color] [/b you]", "[u fool] [color=you fool]x [/b you]", ()),
    (BBCODE, "[url]http://a.example[/url] [url=http://b.example]b[/url]", "http://a.example b (http://b.example)", ()),
    (BBCODE, "[url=http://a.example]http://a.example[/url]", "http://a.example", ()),
    (BBCODE, "[url=http://a.example]never closed", "[url=http://a.example]never closed", ()),
    (BBCODE, "[url=http://a.example][quote]x[/url]y[/quote]z", "[url=http://a.example]\nz", ("xy",)),
    (BBCODE, "[img]http://a.example/1.png[/img][img=alt text]u[/img]", "http://a.example/1.pngalt text u", ()),
    (BBCODE, "[list=1][*]one[*]two[/list]end", "- one\n- two\nend", ()),
    (BBCODE, "[code][quote]not a quote[/quote][/code]", "[quote]not a quote[/quote]", ()),
    (BBCODE, "[quote]a[code]b[/quote]mine[/code]", "[quote]ab[/quote]mine", ()),
    (BBCODE, "[code][quote]a[/quote]b", "[code]\nb", ("a",)),
    (BBCODE, "[spoiler=Ending]he dies[/spoiler]", "Ending he dies", ()),
    (BBCODE, "[sic] a[0] [unknown=x]y[/unknown] [ ] []", "[sic] a[0] [unknown=x]y[/unknown] [ ] []", ()),
    (BBCODE, "a <b>b</b> &amp; > c", "a <b>b</b> &amp; > c", ()),
    (HTML, "<p>one</p><p>two<br>three</p>", "one\ntwo\nthree", ()),
    (HTML, "<blockquote><div><cite>Bob wrote:</cite>fool</div></blockquote>Stop", "Stop", ("Bob wrote:fool",)),
    (
        HTML,
        '<aside class="quote no-group" data-post="1"><div class="title">\n<img alt="" src="/b.png"> Bob:</div>\n'
        "<blockquote>\n<p>fool</p>\n</blockquote></aside>\n<p>Stop it</p>",
        "Stop it",
        ("(/b.png) Bob:\nfool",),
    ),
    (HTML, '<div class="bbcode_quote"><div>Bob</div><div>fool</div></div>Stop', "Stop", ("Bob\nfool",)),
    (HTML, "<DIV CLASS='x quote'>fool</DIV>Stop", "Stop", ("fool",)),
    (HTML, "<div class=quotes>mine</div>", "mine", ()),
    (HTML, "<blockquote>a<blockquote>b</blockquote>c</blockquote>d", "d", ("a\nb\nc",)),
    (HTML, "<blockquote>never closed<p>mine", "never closed\nmine", ()),
    (HTML, '<blockquote>a<div class="quote">b</blockquote>mine</div>mine', "mine\nmine", ("a\nb",)),
    (HTML, "<b><blockquote>a</b>b</blockquote>mine", "mine", ("ab",)),
    (HTML, "&lt;b&gt; &amp;lt; &#39;x&#39; a&nbsp;b", "<b> &lt; 'x' a\xa0b", ()),
    (HTML, "a<script>if (a < b) x('</b>')</script>b<style>p {}</style>c<!-- d -->e", "abce", ()),
    (HTML, "a<script>mine", "amine", ()),
    (HTML, "a<!-- mine", "a<!-- mine", ()),
    (HTML, "a<!-->mine-->", "amine-->", ()),
    (HTML, '<a href="http://a.example?b&amp;c">click</a> <a href=/x>/x</a>', "click (http://a.example?b&c) /x", ()),
    (HTML, '<a href="/x">click', "(/x) click", ()),
    (HTML, "x<img alt='fat cat' src=1.png title=you>y", "x fat cat you (1.png) y", ()),
    (HTML, '<iframe src="http://a.example"></iframe>', "(http://a.example)", ()),
    (HTML, "<ul><li>one<li>two</ul><ol><li>three</ol>", "- one\n- two\n- three", ()),
    (HTML, "<table><tr><td>a</td><td>b</td></tr><tr><td>c</table>", "a b\nc", ()),
    (HTML, "<span style='display:none'>still judged</span>", "still judged", ()),
    (HTML, "I <3 <you lot> a < b > c </3", "I <3 <you lot> a < b > c </3", ()),
    (HTML, "<b/ \"junk' =x class class=a b>word</b x='>'>end", "wordend", ()),
    (HTML, "<b title='a > b'>x</b> <i title=\"mine", "a > b x <i title=\"mine", ()),
    (HTML, "<pre>a\n  b</pre>  c\n d", "a\n  b\nc d", ()),
    (HTML, "f<b></b>o<wbr>ol", "fool", ()),
    (HTML, "<textarea><blockquote>mine</blockquote></textarea>", "<blockquote>mine</blockquote>", ()),
]  # fmt: skip


@pytest.mark.parametrize(("markup", "post", "own", "quoted"), POSTS)
def test_a_post_is_reduced_to_what_a_reader_sees(markup, post, own, quoted):
    assert reduce(post, markup) == Reduced(own, quoted)


@given(st.text())
def test_text_without_markup_is_left_as_it_is(text):
    assert reduce(text, Markup.NONE) == Reduced(text, ())


@given(st.lists(st.from_regex(r"[a-zåß字]+[.,!?]?", fullmatch=True), min_size=1), st.sampled_from(READERS))
def test_plain_words_come_out_as_they_went_in(words, markup):
    assert reduce(" ".join(words), markup) == Reduced(" ".join(words), ())


# Documents as trees: a string is decoration around a word, a tuple is a box of that kind with children.
LEAVES = st.sampled_from(["plain", "bold", "link", "picture", "code", "strike", "spoiler", "cell"])
TREES = st.lists(
    st.recursive(
        LEAVES,
        lambda below: st.tuples(
            st.sampled_from(["quote", "list", "unclosed"]), st.lists(below, min_size=1, max_size=4)
        ),
        max_leaves=12,
    ),
    min_size=1,
    max_size=6,
)


class Writer:
    """Writes a tree in one markup, and notes which words are the author's own and which are quoted."""

    boxes: dict[str, tuple[str, str]]
    leaves: dict[str, str]

    def __init__(self) -> None:
        self.numbers = count()
        self.own: list[str] = []
        self.quoted: list[str] = []

    def write(self, trees, quoted=False) -> str:
        return "".join(self.leaf(t, quoted) if isinstance(t, str) else self.box(*t, quoted) for t in trees)

    def word(self, quoted: bool) -> str:
        word = f"w{next(self.numbers)}z"
        (self.quoted if quoted else self.own).append(word)
        return word

    def leaf(self, kind: str, quoted: bool) -> str:
        return re.sub("@", lambda _: self.word(quoted), self.leaves[kind])

    def box(self, kind, children, quoted) -> str:
        begin, end = self.boxes[kind]
        return begin + self.write(children, quoted or kind == "quote") + end


class BBCode(Writer):
    boxes = {
        "quote": ("[quote=x]", "[/QUOTE]"),
        "list": ("[list][*]", "[/list]"),
        "unclosed": ("[b][/url][color=red]", ""),
    }
    leaves = {
        "plain": " @\n", "bold": "[b][i]@[/b][/i] ", "link": "[url=http://@]@[/url] ", "picture": "[img]@[/img]",
        "code": "[code][@[quote]@[/quote][/code]", "strike": "[s]@[/s]", "spoiler": "[spoiler=@]@[/spoiler]",
        "cell": "[td]@[/td] [@] [u @]",
    }  # fmt: skip


class Html(Writer):
    boxes = {
        "quote": ("<aside class='a quote'><blockquote>", "</blockquote></aside>"),
        "list": ("<ul><li>", "</ul>"),
        "unclosed": ("<p><b></div><span", " class=x>"),
    }
    leaves = {
        "plain": " @\n", "bold": "<b>@</i></b>", "link": "<a href='http://@'>@</a>", "picture": '<img alt="@" src=@>',
        "code": "<pre>@ &lt;@\n</pre>", "strike": "<s>@</s>", "spoiler": "<details><summary>@</summary>@</details>",
        "cell": "<table><tr><td>@<td>@</table><@> <3",
    }  # fmt: skip

    def box(self, kind, children, quoted) -> str:
        if kind == "unclosed":  # of these, the end belongs to the beginning
            return "".join(self.boxes[kind]) + self.write(children, quoted)
        return super().box(kind, children, quoted)


class Markdown(Writer):
    leaves = {
        "plain": "@ &gt; @\n\n", "bold": "**@** _@_\n\n", "link": '[@](http://@ "@") <http://@>\n\n',
        "picture": "![@](@)\n\n", "code": "```@\n> @\n```\n", "strike": "~~@~~ ^@ `@`\n\n", "spoiler": ">!@!< @\n\n",
        "cell": "|@|@|\n|--|--|\n|@|@|@|\n\n",
    }  # fmt: skip

    def box(self, kind, children, quoted) -> str:
        inside = self.write(children, quoted or kind == "quote").rstrip("\n").split("\n")
        if kind == "quote":
            # the next words, without an empty line between
            return "".join(f"> {line}\n" for line in inside) + f"{self.word(quoted)}\n\n"
        if kind == "list":
            return f"- {inside[0]}\n" + "".join(f"  {line}\n" for line in inside[1:]) + "\n"
        return "# <blockquote>\n" + "\n".join(inside) + "\n\n"


@pytest.mark.parametrize(("markup", "writer"), [(MARKDOWN, Markdown), (BBCODE, BBCode), (HTML, Html)])
@given(trees=TREES)
def test_each_own_word_is_in_own_and_each_quoted_word_in_quoted_alone(markup, writer, trees):
    written = writer()
    text = written.write(trees)
    own, quoted = reduce(text, markup)
    assert [word for word in written.own if word not in own] == []
    assert [word for word in written.quoted if word not in "\n".join(quoted)] == []
    assert [word for word in written.quoted if word in own] == []


FRAGMENTS = {  # anything but what completes a quote
    MARKDOWN: [
        "\n", "\n\n", " ", "  ", "    ", "\t", "*", "**", "_", "~~", "`", "```", "~~~", "[", "]", "(", ")", "![",
        "](", "[a]: ", ": ", "|", "|-|", "---", "===", "- ", "1. ", "# ", "\\", "<", "<b>", "</b>", "<!--", "-->",
        "<blockquote>", "<div>", "<script>", "&", "&amp;", "&#", ";", "^", "^(", "!<", '"', "'", "http://",
        "<http://", "\r", "\0", "é",
    ],
    BBCODE: [
        "\n", " ", "[", "]", "[/", "=", '"', "'", "[quote]", "[quote=", '[quote="', "[b]", "[/b]", "[b ", "[/b ",
        "[url=", "[url]", "[/url]", "[img]", "[img=", "[/img]", "[code]", "[/code]", "[code=", "[list]", "[*]",
        "[spoiler=", "[x]", "[color=red]", "[i=",
    ],
    HTML: [
        "\n", " ", "<", ">", "< ", "/", "&", "&lt;", ";", "<b>", "</b>", "<p>", "</p>", "<blockquote>",
        "<div class=quote>", "<a href='x'>", "</a>", "<pre>", "</pre>", "<script>", "<style>", "<!--", "<!", "<?",
        "</", "<3", "<textarea>", "</textarea>", "<td>", "<li>", "<br>",
    ],
}  # fmt: skip


@pytest.mark.parametrize("markup", READERS)
@given(data=st.data())
def test_without_a_complete_quote_every_word_is_own(markup, data):
    drawn = data.draw(st.lists(st.sampled_from([*FRAGMENTS[markup], "@", "@"]), max_size=25))
    numbers = count()
    text = "".join(f"w{next(numbers)}z" if fragment == "@" else fragment for fragment in drawn)
    own, quoted = reduce(text, markup)
    assert quoted == ()
    assert [word for word in re.findall(r"w\d+z", text) if word not in own] == []


@pytest.mark.parametrize("markup", READERS)
@given(data=st.data())
def test_nothing_makes_it_raise_and_no_letter_is_in_both(markup, data):
    closing = {MARKDOWN: ["> ", ">", "&gt;", "</blockquote>"], BBCODE: ["[/quote]"], HTML: ["</blockquote>", "</div>"]}
    text = "".join(data.draw(st.lists(st.sampled_from([*FRAGMENTS[markup], *closing[markup], "@", "@"]) | st.text())))
    own, quoted = reduce(text, markup)
    assert own.count("@") + sum(quote.count("@") for quote in quoted) <= text.count("@")
    assert own == own.strip()
    assert all(quoted)


class _Oracle(HTMLParser):
    """The text of HTML, by the standard library."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


@given(
    st.recursive(
        st.text().map(escape),
        lambda below: st.builds(
            lambda name, value, inside: f'<{name} id="{escape(value)}">{inside}</{name}>',
            st.sampled_from(["b", "p", "div", "i", "table", "pre"]),
            st.text(),
            st.lists(below, max_size=4).map("".join),
        ),
    )
)
@example("<b id='&lt;'>a&amp;b</b>")
def test_html_has_the_text_that_the_standard_library_finds(html):
    oracle = _Oracle()
    oracle.feed(html)
    oracle.close()
    own, _ = reduce(html, HTML)
    assert "".join(own.split()) == "".join(oracle.text.split())


HOSTILE = {
    MARKDOWN: ["[", "`", "<", "> - ", "> a\n", " "],
    BBCODE: ["[", "[quote]", "[quote]a[/quote]", "[b]", "[url=x]", '[a="', "[code]", "[quote=a,post:1", " "],
    HTML: ["<", "<a ", "<a x='", "x@y<", "<!--", "<script>", "<div class=quote>", "</div>", "<a href=x>", "&", " "],
}  # fmt: skip


def seconds(text: str, markup: Markup) -> float:
    start = time.process_time()
    reduce(text, markup)
    return time.process_time() - start


@pytest.mark.parametrize(("markup", "unit"), [(markup, unit) for markup in HOSTILE for unit in HOSTILE[markup]])
def test_ten_times_the_text_takes_about_ten_times_as_long(markup, unit):
    short, long = (unit * (size // len(unit)) for size in (10_000, 100_000))
    # quadratic time would be a factor of 100; what is done in a moment cannot be told apart
    assert seconds(long, markup) < 30 * max(seconds(short, markup), 0.01)


@pytest.mark.parametrize(
    ("markup", "begin", "end"),
    [
        (BBCODE, "[quote]", "[/quote]"),
        (HTML, "<blockquote>", "</blockquote>"),
        (MARKDOWN, ">", ""),
    ],
)
def test_a_hundred_thousand_nested_tags_are_read_in_seconds(markup, begin, end):
    start = time.process_time()
    own, quoted = reduce(begin * 100_000 + "word" + end * 100_000, markup)
    assert time.process_time() - start < 20
    assert "word" in "\n".join((own, *quoted))


def test_a_megabyte_of_brackets_is_left_as_it_is():
    text = "[" * 2**20
    start = time.process_time()
    assert reduce(text, BBCODE) == Reduced(text, ())
    assert time.process_time() - start < 20


def test_words_below_any_depth_of_lists_and_quotes_are_kept():
    deep = "".join(f"{'  ' * depth}- w{depth}z\n" for depth in range(60))
    assert all(f"w{depth}z" in reduce(deep, MARKDOWN).own for depth in range(60))
    assert reduce("> - " * 100 + "word", MARKDOWN).quoted[0].endswith("word")
    assert reduce(f"{deep}\n> said", MARKDOWN).quoted == ("said",)


def test_marks_in_long_paragraphs_are_read_too():
    long = " ".join(f"**w{number}z** and <b>so</b> on" for number in range(1000))
    own = reduce(long, MARKDOWN).own
    assert own.count("*") < 100 and all(f"w{number}z" in own for number in range(1000))


def test_a_link_within_a_box_does_not_outlive_it():
    pieces = Pieces()
    pieces.open_box("quote", quote=True)
    pieces.open_link("address", typed="[address]")
    assert pieces.close_box("quote")
    assert not pieces.close_link()
    assert pieces.reduced() == Reduced("", ("[address]",))
