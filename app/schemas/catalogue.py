"""Courses, skills and items: their requests and replies."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, create_model, model_validator

from app.adaptive.irt.item_models import BY_CATALOGUE_NAME, ITEM_MODELS, CatalogueModel, ItemModel
from app.schemas.common import (
    LARGEST_SCORE,
    Identifier,
    Label,
    OneOf,
    Page,
    Reply,
    Request,
    Title,
    examples,
    to_whole_number,
)

MAX_SKILLS = 16
MAX_THRESHOLDS = 20

PARAMETERS = ("a", "b", "c", "d", "thresholds")


def check_unique(values: list[Any]) -> list[Any]:
    """A list in which nothing stands twice."""
    if first_duplicate(values) is not None:
        raise ValueError("nothing may stand twice")
    return values


def first_duplicate(values: Iterable[Hashable]) -> Hashable | None:
    """The first value that stood before."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


Unique = Field(json_schema_extra={"uniqueItems": True})
Address = Annotated[str, StringConstraints(max_length=2000, strict=True, pattern=r"^https?://[^\x00-\x20]+$")]


A = Annotated[float, Field(ge=0.01, le=6, description="discrimination: how steep the curve is; default 1")]
B = Annotated[float, Field(ge=-10, le=10, description="difficulty, in logits of the ability")]
C = Annotated[float, Field(ge=0, le=0.5, description="guessing: the chance of those who know nothing")]
D = Annotated[float, Field(ge=0.51, le=1, description="upper asymptote: the chance of those who know everything")]
Thresholds = Annotated[
    list[Annotated[float, Field(ge=-10, le=10)]],
    Field(
        min_length=1,
        max_length=MAX_THRESHOLDS,
        description="between m categories the m - 1 boundaries, increasing, or the difficulties of the steps",
    ),
]
KINDS: dict[str, Any] = {"a": A, "b": B, "c": C, "d": D, "thresholds": Thresholds}


def _parameters_of(model: ItemModel) -> type[BaseModel]:
    """How the parameters of one model are described."""
    name = model.catalogue_name
    fields: dict[str, Any] = {"model": (Literal[name], Field(description="what the item follows"))}
    for parameter, kind in KINDS.items():
        if parameter in model.required:
            fields[parameter] = kind
        elif parameter in model.parameters:
            fields[parameter] = (kind | None, Field(default=None, description=kind.__metadata__[0].description))
        else:
            fields[parameter] = (None, Field(default=None, description=f"not in {name}"))
    doc = f"The parameters of an item that follows {name}."
    return create_model(f"Parameters{name[0].upper()}{name[1:]}", __base__=Request, __doc__=doc, **fields)


class ItemParameters(OneOf):
    """Known item parameters on the logistic scale (D = 1) of an ability with mean 0.

    1PL: b. 2PL: a, b. 3PL: a, b, c. 4PL: a, b, c, d. graded (Samejima 1969): a and increasing thresholds. GPCM (Muraki
    1992): a and the difficulty of each step, as thresholds in any order; PCM (Masters 1982): the same with a = 1.
    """

    model_config = examples({"model": "2PL", "a": 1.2, "b": -0.4})
    forms = tuple(map(_parameters_of, ITEM_MODELS))

    model: CatalogueModel
    a: A | None = None
    b: B | None = None
    c: C | None = None
    d: D | None = None
    thresholds: Thresholds | None = None

    @model_validator(mode="after")
    def _complete(self) -> "ItemParameters":
        model = BY_CATALOGUE_NAME[self.model]
        present = {name for name in PARAMETERS if getattr(self, name) is not None}
        missing = set(model.required) - present
        if missing:
            raise ValueError(f"{self.model} needs {', '.join(sorted(missing))}")
        if extra := present.difference(model.parameters):
            raise ValueError(f"{self.model} has no {', '.join(sorted(extra))}")
        thresholds = self.thresholds or []
        if self.model == "graded" and any(low >= high for low, high in pairwise(thresholds)):
            raise ValueError("the thresholds must increase")
        return self


class SkillIn(Request):
    """A skill; what is left out is empty afterwards."""

    id: Identifier = Field(description="yours: the same id is the same skill for ever")
    title: Title | None = Field(default=None, description="how sentences call it; its id if absent")
    prerequisites: Annotated[list[Identifier], AfterValidator(check_unique), Field(max_length=100), Unique] | None = (
        Field(default=None, description="the skills to know before, all of this course; no cycles")
    )


SKILLS = "all the skills that it takes to get it right; none for an item that asks for no skill"


class ItemIn(Request):
    """An item; what is left out is empty afterwards."""

    id: Identifier = Field(description="yours: the same id is the same item for ever")
    skills: Annotated[
        list[Identifier], AfterValidator(check_unique), Field(max_length=MAX_SKILLS, description=SKILLS), Unique
    ]
    title: Title | None = Field(default=None, description="for people; nothing is computed from it")
    kind: Label | None = Field(default=None, description="one word of yours for how it is answered, to choose by")
    tags: Annotated[list[Label], AfterValidator(check_unique), Field(max_length=50), Unique] | None = Field(
        default=None, description="words of yours, to choose by"
    )
    url: Address | None = Field(
        default=None, description="the address at which your system shows it; never opened here"
    )
    max_score: Annotated[float, Field(gt=0, le=LARGEST_SCORE)] | None = Field(
        default=None, description="default 1; of a graded item the number of its thresholds"
    )
    parameters: ItemParameters | None = Field(
        default=None, description="only if they are known from elsewhere; a calibration fits them otherwise"
    )
    exposure: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="exposure parameter in adaptive tests (Sympson & Hetter); default 1"
    )

    choices: Annotated[int, Field(ge=2, le=100), BeforeValidator(to_whole_number)] | None = Field(
        default=None,
        description="how many options there are, one of them right: guessing without parameters",
    )
    reviewed: bool = Field(
        default=False, description="somebody has looked at the item: it counts although a calibration suspects it"
    )

    @model_validator(mode="after")
    def _graded(self) -> "ItemIn":
        thresholds = self.parameters.thresholds if self.parameters else None
        if thresholds and self.max_score not in (None, len(thresholds)):
            raise ValueError(f"a graded item's max_score is the number of its thresholds, {len(thresholds)}")
        return self


class CatalogueIn(Request):
    """Skills and items to add or replace; what is not named stays as it is."""

    model_config = examples(
        {
            "title": "Fractions",
            "skills": [{"id": "subtract"}, {"id": "borrow", "prerequisites": ["subtract"]}],
            "items": [{"id": "i1", "skills": ["subtract"]}, {"id": "i2", "skills": ["subtract", "borrow"]}],
        }
    )

    title: Title | None = Field(default=None, description="what the course is called; if absent it stays as it is")
    skills: Annotated[list[SkillIn], Field(max_length=10_000)] | None = Field(
        default=None, description="skills to add or replace, each id once"
    )
    items: Annotated[list[ItemIn], Field(max_length=100_000)] | None = Field(
        default=None, description="items to add or replace, each id once"
    )

    @model_validator(mode="after")
    def _ids_once(self) -> "CatalogueIn":
        for records in (self.skills, self.items):
            duplicate = first_duplicate(record.id for record in records or ())
            if duplicate is not None:
                raise ValueError("an id stands twice in one list")
        return self


class CatalogueCounts(Reply):
    """What an upsert did, and what the course holds now."""

    revision: int = Field(ge=1, description="the number of the catalogue as it is now; it rises with every change")
    skills_created: int = Field(ge=0, description="skills that were not there before")
    skills_changed: int = Field(ge=0, description="skills that were there, and are different now")
    items_created: int = Field(ge=0, description="items that were not there before")
    items_changed: int = Field(ge=0, description="items that were there, and are different now")
    skills: int = Field(ge=0, description="all skills of the course")
    items: int = Field(ge=0, description="all items of the course")


class SkillOut(Reply):
    """A skill."""

    id: str = Field(description="the id that you gave it")
    title: str | None = Field(description="how sentences call it; null: by its id")
    prerequisites: list[str] = Field(description="the skills to know before")


class ItemOut(Reply):
    """An item."""

    id: str = Field(description="the id that you gave it")
    skills: list[str] = Field(description=SKILLS)
    title: str | None = Field(description="a text for people; null if it has none")
    kind: str | None = Field(description="one word for how it is answered; null if it has none")
    tags: list[str] = Field(description="words of yours to choose by, perhaps none")
    url: str | None = Field(description="the address at which your system shows it; null if it has none")
    max_score: float = Field(gt=0, description="the points of a right answer")
    parameters: ItemParameters | None = Field(description="as they were given; null: calibrations fit them")
    exposure: float | None = Field(description="exposure parameter in adaptive tests (Sympson & Hetter); null: 1")
    choices: int | None = Field(description="how many options there are, one of them right; null: not known")
    reviewed: bool = Field(description="whether it counts although a calibration suspects it")


class SkillPage(Page):
    """Skills by id."""

    data: Sequence[SkillOut] = Field(description="the skills of the course, by id")


class ItemPage(Page):
    """Items by id."""

    data: Sequence[ItemOut] = Field(description="the items of the course, by id")
