"""All cases of all lists, in the order in which they were added."""

from __future__ import annotations

from validate.bench.models import (
    cases,
    cases_diverse,
    cases_draw,
    cases_fresh,
    cases_further,
    cases_hands,
    cases_hands_further,
    cases_hands_more,
    cases_more,
    cases_other,
    cases_published,
    cases_usual,
    draws,
)
from validate.bench.models.cases import Case


def every() -> list[Case]:
    """Eager, captured and compiled cases; of cases with one key the first counts."""
    made = [
        *cases.eager(), *cases_more.eager(), *cases_fresh.eager(),
        *cases.compiled(), *cases_more.compiled(), *cases_fresh.compiled(),
        *cases_draw.eager(), *cases_draw.compiled(),
        *cases_usual.eager(), *cases_usual.compiled(),
        *cases_published.eager(), *cases_published.compiled(),
        *cases_other.eager(), *cases_other.compiled(),
        *cases_further.eager(), *cases_further.compiled(),
        *cases_diverse.eager(),
    ]  # fmt: skip
    for one in (cases_hands, cases_hands_more, cases_hands_further):
        made += [*draws.eager(one.DRAW), *draws.compiled(one.DRAW)]
    first: dict[str, Case] = {}
    for case in made:
        first.setdefault(case.key, case)
    return list(first.values())
