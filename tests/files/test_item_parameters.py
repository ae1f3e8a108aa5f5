"""Banks of items from files: every model read as what it is, constraints, and errors that say what to do."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from app.adaptive.cat import Bound
from app.adaptive.irt import Model
from app.adaptive.irt.item_models import MODELS
from app.core.errors import InvalidFile
from app.files.item_parameters import ItemFile, read_constraints, read_item_file
from tests.gate.examples import examples

KNOWN = ("rasch", "2pl", "3pl", "4pl", "graded", "gpcm", "pcm")


def read_items(folder: Path, text: str, scaling: float = 1.0) -> ItemFile:
    path = folder / "bank.csv"
    path.write_text(text)
    return read_item_file(path, scaling)


def models(read: ItemFile) -> dict[str, int]:
    return dict(Counter(MODELS[model] for model in read.pool.models.tolist()))


MIXED = """ID,MODEL,PAR1,PAR2,PAR3,PAR4,LEVEL
x1,1PL,0.5,,,,3
x2,2PL,1.2,-0.3,,,4
x3,3PL,1.1,0.2,0.25,NA,4
x4,4PL,0.9,0,0.1,0.95,
x5,GR,1.5,-1,0,1.5,5
x6,GPC,0.8,1,-1,,5
x7,PC,0.4,-0.4,,,3
"""


def test_parameters_of_every_model_are_read_in_its_order(tmp_path: Path) -> None:
    read = read_items(tmp_path, MIXED)
    pool = read.pool
    assert [MODELS[model] for model in pool.models.tolist()] == list(KNOWN)
    assert read.ids == tuple(f"x{place}" for place in range(1, 8))
    assert pool.max_category.tolist() == [1, 1, 1, 1, 3, 2, 2]
    assert pool.discrimination.tolist() == [1, 1.2, 1.1, 0.9, 1.5, 0.8, 1]
    assert pool.difficulty[:, 0].tolist() == [0.5, -0.3, 0.2, 0, -1, 1, 0.4]
    assert pool.difficulty[4].tolist() == [-1, 0, 1.5]
    assert pool.guessing.tolist() == [0, 0, 0.25, 0.1, 0, 0, 0]
    assert pool.upper.tolist() == [1, 1, 1, 0.95, 1, 1, 1]
    assert read.attributes == {"level": ("3", "4", "4", "", "5", "5", "3")}
    assert np.allclose(read_items(tmp_path, MIXED, 1.7).pool.discrimination, 1.7 * pool.discrimination)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("item_id,b\nx,1\n", "rasch"),
        ("item,a,b\nx,1,1\n", "2pl"),
        ("item,Discrimination,difficulty,asymptote\nx,1,1,.2\n", "3pl"),
        ("item_id,a,b,c,d\nx,1,1,.2,.9\n", "4pl"),
        ("item_id,a,cb1,cb2\nx,1,0,1\n", "graded"),
        ("item,alphaj,deltaj1,deltaj2\nx,1,1,0\n", "gpcm"),
        ("item,deltaj1,deltaj2\nx,1,0\n", "pcm"),
        ("item,cat,V1,V2,V3\nx,2,1,0,.2\n", "3pl"),
        ("item,cat,V1,V2,V3\nx,3,1,0,.2\n", "gpcm"),
        ("id,model,a,b1,b2\nx,graded,1,0,1\n", "graded"),
        ("id,model,a,b1,b2\nx,gpcm,1,1,0\n", "gpcm"),
        ("id,model,a,b,c\nx,2PL,1,1,\n", "2pl"),
    ],
)
def test_model_is_recognised_by_columns_that_only_it_has(tmp_path: Path, text: str, model: str) -> None:
    assert models(read_items(tmp_path, text)) == {model: 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item_id,a,b\n", "no items"),
        ("item_id,text\nx,hello\n", "give a column model"),
        ("item_id,a,b1,b2\nx,1,0,1\n", "give a column model"),
        ("a1,a2,c1,c2\n1,2,1,2\n", "nominal response model"),
        ("id,model,a,b\nx,5PL,1,0\n", "line 2: the model '5PL' is none of"),
        ("id,model,a,b\nx,3PL,1,0\n", "line 2: a 3pl item has the parameters a, b, c, not 2 numbers"),
        ("id,model,PAR1,PAR2,PAR3\nx,2PL,1,0,.2\n", "a 2pl item has the parameters a, b, not 3"),
        (
            "id,model,PAR1,PAR2,PAR3\ny,2PL,1,0,\nx,GR,1,,2\n",
            "line 3: a graded item has the parameters a and threshold",
        ),
        ("id,model,PAR1,PAR2,PAR3\nx,GR,1,2,0\n", "line 2: the thresholds of a graded item ascend"),
        ("id,a,b\nx,1,0\nx,1,0\n", "the item 'x' more than once"),
        ("id,a,b\nx,one,0\n", "line 2: 'one' is not a number"),
        ("id,a,b\nx,1e999,0\n", "line 2: '1e999' is not a number"),
        ("id,a,b\nx,-1,0\n", "line 2: a discrimination is above 0"),
        ("id,a,b\nx,1\n", "line 2: 2 values where the header names 3"),
        ("id,a,a\nx,1,0\n", "two columns of one name"),
    ],
)
def test_invalid_item_file_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        read_items(tmp_path, text)
    assert said in str(refused.value)


@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KNOWN),
            st.floats(0.1, 3),
            st.lists(st.floats(-4, 4), min_size=1, max_size=4, unique=True),
            st.floats(0, 0.4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_item_file_of_mixed_models_is_read_as_it_was_written(
    tmp_path: Path, items: list[tuple[Model, float, list[float], float]]
) -> None:
    """By place, whatever models a file mixes."""
    rows, expected = [], []
    for place, (model, a, difficulty, c) in enumerate(items):
        steps = sorted(difficulty) if model in ("graded", "gpcm", "pcm") else difficulty[:1]
        before = [] if model in ("rasch", "pcm") else [a]
        behind = {"3pl": [c], "4pl": [c, 0.9]}.get(model, [])
        rows.append(",".join([f"x{place}", model, *map(repr, [*before, *steps, *behind])]))
        expected.append((model, a if before else 1.0, steps))
    header = "id,model," + ",".join(f"PAR{place}" for place in range(1, 6))
    wide = [row + "," * (header.count(",") - row.count(",")) for row in rows]
    pool = read_items(tmp_path, "\n".join([header, *wide, ""])).pool
    for item, (model, a, steps) in enumerate(expected):
        assert MODELS[pool.models[item]] == model
        assert pool.discrimination[item] == a
        assert pool.difficulty[item, : len(steps)].tolist() == steps
        assert pool.max_category[item] == len(steps)


CONSTRAINTS = '''CONSTRAINT_ID,TYPE,WHAT,CONDITION,LB,UB,ONOFF
C1,Number,Item,,4,4,
C2,Number,Item,LEVEL == 4,1,2,
C3,Number,Item,"LEVEL %in% c(3, 5)",1,3,
C4,Number,Item,LEVEL >= 4 & LEVEL != 5,0,2,
C5,Number,Item,!is.na(LEVEL),2,4,
C6,Number,Item,LEVEL,0,2,
C7,Enemy,Item,"ID %in% c(""x1"", ""x2"")",,,
C8,Include,Item,"ID == ""x7""",,,
C9,Exclude,Item,"LEVEL < 4 & ID == ""x1""",,,
C10,Order,Item,LEVEL,,,
C11,Number,Stimulus,,2,2,
C12,Number,Item,Per Stimulus,2,2,
C13,Sum,Item,LEVEL,2,2,OFF
'''


def test_constraints_are_read_as_groups_with_bounds(tmp_path: Path) -> None:
    path = tmp_path / "constraints.csv"
    path.write_text(CONSTRAINTS)
    read, found = read_constraints(path, read_items(tmp_path, MIXED))
    groups = [group.tolist() for group in read.pool.groups]
    assert groups == [[1, 2], [0, 4, 5, 6], [1, 2], [0, 1, 2, 4, 5, 6], [0, 6], [1, 2], [4, 5], [6], [0]]
    limits = [(1, 2), (1, 3), (0, 2), (2, 4), (0, 2), (0, 2), (0, 2), (1, 1), (0, 0)]
    assert found.bounds == tuple(Bound(group, *each) for group, each in enumerate(limits))
    assert [group.tolist() for group in read.pool.enemies] == [[0, 1]]
    assert (found.min_items, found.max_items) == (4, 4)
    assert found.left_out == ("C10 (Order Item)", "C11 (Number Stimulus)", "C12 (Per Stimulus)")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("GRADE == 4", "no column GRADE"),
        ("LEVEL = 4", "not understood"),
        ("LEVEL == 4 | LEVEL == 3", "not understood"),
        ("LEVEL >= high", "'high' is not a number"),
    ],
)
def test_constraints_with_meaningless_conditions_are_refused(tmp_path: Path, condition: str, said: str) -> None:
    path = tmp_path / "constraints.csv"
    path.write_text(f"TYPE,WHAT,CONDITION,LB,UB\nNumber,Item,{condition},1,2\n")
    with pytest.raises(InvalidFile, match=r"line 2") as refused:
        read_constraints(path, read_items(tmp_path, MIXED))
    assert said in str(refused.value)


def test_constraint_bounds_must_be_whole_numbers_in_order(tmp_path: Path) -> None:
    path = tmp_path / "constraints.csv"
    for limits in ("2,1", "-1,2", "0.5,2", ",2"):
        path.write_text(f"TYPE,WHAT,CONDITION,LB,UB\nNumber,Item,LEVEL == 4,{limits}\n")
        with pytest.raises(InvalidFile, match="line 2"):
            read_constraints(path, read_items(tmp_path, MIXED))


REAL = {
    "catr_cat_pav": {"gpcm": 96},
    "catr_tcals85": {"4pl": 85},
    "kb36_rescaled": {"3pl": 36},
    "plink_reading_grade3.0": {"3pl": 34, "gpcm": 7},
    "plink_reading_grade4.0": {"3pl": 56, "gpcm": 14},
    "plink_reading_grade4.1": {"3pl": 56, "gpcm": 14},
    "plink_reading_grade5.1": {"3pl": 56, "gpcm": 14},
    "plink_reading_grade5.2": {"3pl": 58, "gpcm": 14},
    "plink_reading_grade6.2": {"3pl": 57, "gpcm": 14},
    "plink_tk07_grade3": {"3pl": 26},
    "plink_tk07_grade4": {"3pl": 34},
    "plink_tk07_grade5": {"3pl": 37},
    "plink_tk07_grade6": {"3pl": 40},
    "plink_tk07_grade7": {"3pl": 41},
    "plink_tk07_grade8": {"3pl": 43},
    "promis_anxiety_grm": {"graded": 29},
    "promis_depression_grm": {"graded": 28},
    "testdesign_bayes_320": {"3pl": 320},
    "testdesign_fatigue_95": {"graded": 95},
    "testdesign_reading_303": {"3pl": 270, "gpcm": 33},
    "testdesign_science_1000": {"3pl": 918, "gpcm": 82},
}
# How many bounds, enemies and left out.
KEPT = {
    "testdesign_bayes_320": (13, 0, 0),
    "testdesign_fatigue_95": (10, 99, 1),
    "testdesign_reading_303": (27, 0, 2),
    "testdesign_science_1000": (32, 1, 2),
}
NO_BANKS = ("plink_act60_nrm_yr97", "plink_tk07_common_g3.g4", "testdesign_fatigue_95_text")


def real(name: str) -> Path:
    """A bank of others; it is not in the repository."""
    folder = os.environ.get("REFERENCE_DATA")
    if folder is None:
        pytest.skip("set REFERENCE_DATA to the folder that holds itembanks")
    return Path(folder) / "itembanks" / f"{name}.csv"


@pytest.mark.parametrize("name", REAL)
def test_published_item_banks_are_read(name: str) -> None:
    assert models(read_item_file(real(name))) == REAL[name]


@pytest.mark.parametrize("name", KEPT)
def test_published_constraints_are_read(name: str) -> None:
    read, found = read_constraints(real(f"{name}_constraints"), read_item_file(real(name)))
    assert (len(found.bounds), len(read.pool.enemies), len(found.left_out)) == KEPT[name]
    assert all(len(group) for group in read.pool.groups)


@pytest.mark.parametrize("name", NO_BANKS)
def test_published_files_that_are_no_item_banks_are_refused(name: str) -> None:
    with pytest.raises(InvalidFile):
        read_item_file(real(name))
