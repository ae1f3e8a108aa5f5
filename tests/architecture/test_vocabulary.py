"""`make check` looks for words that are not used; here its check is checked."""

from tests.architecture.vocabulary import GLOSSARY, Word, compare, count_uses, read_words, shrink, split_capitals

SHELF = Word("shelf", "information index", "everywhere", None)
PLACE = Word("place", "index", "names", None)
BANK = Word("bank", "item bank", "names", None)
LIFE = Word("Life", "LearnerLog", "names", None)


def test_glossary_table_is_read_to_its_end() -> None:
    text = GLOSSARY.read_text()
    rows = text.split("<!-- forbidden: begin -->")[1].split("<!-- forbidden: end -->")[0].count("\n| `")
    assert len(read_words(text)) == rows > 0


def test_word_is_found_as_part_of_an_identifier_but_not_of_another_word() -> None:
    assert split_capitals("makeLruCache") == "make_lru_cache"
    assert count_uses("a.py", "make_shelf = Shelf()\nbookshelf = 1\n", [SHELF]) == {"shelf": 2}
    assert count_uses("a.py", "Life = lifetime\nlife = 1\n", [LIFE]) == {"Life": 1}


def test_word_for_names_is_allowed_in_prose_and_the_other_way_round() -> None:
    source = 'place = 1  # in its place\n"""In place."""\n'
    assert count_uses("a.py", source, [PLACE]) == {"place": 1}
    assert count_uses("a.py", source, [PLACE._replace(where="prose")]) == {"place": 2}
    assert count_uses("a.md", "A place.", [PLACE]) == {}


def test_exception_of_a_word_is_a_pattern_of_the_line() -> None:
    words = read_words(
        "<!-- forbidden: begin -->\n| `bank` | item bank | names | `(item_?bank\\|/irt/)` |\n<!-- forbidden: end -->"
    )
    assert count_uses("app/irt/a.py", "bank = 1\n", words) == {}
    assert count_uses("app/a.py", "bank = item_bank\n", words) == {}
    assert count_uses("app/a.py", "bank = 1\n", words) == {"bank": 1}


def test_list_of_allowed_uses_may_only_shrink() -> None:
    assert compare({"a.py": {"shelf": 2}}, {"a.py": {"shelf": 2}}) == []
    assert len(compare({"a.py": {"shelf": 3}}, {"a.py": {"shelf": 2}})) == 1
    assert len(compare({"a.py": {"shelf": 1}}, {"a.py": {"shelf": 2}})) == 1
    assert len(compare({"b.py": {"shelf": 1}}, {})) == 1
    assert shrink({"a.py": {"shelf": 3, "bank": 1}}, {"a.py": {"shelf": 2}, "b.py": {"bank": 1}}) == {
        "a.py": {"shelf": 2}
    }
