"""The studies that come with genobj: every size loads, is planned on equal terms, and claims what it can test."""

import re
import tomllib
from functools import cache
from math import prod
from pathlib import Path

import pytest

from genobj.config.load import leaves, read_toml, write_toml
from genobj.studies.bill import RATE, bills
from genobj.studies.conduct import Conductor
from genobj.studies.plan import Row, jobs, rows
from genobj.studies.study import Study, find, load, scales, shipped
from genobj.studies.worker import Task

NAMES = (
    "family",
    *("epsilon", "fig3", "fig4a", "fig4b", "fig4c", "fig5", "guidance", "tab1-256", "tab1-512", "tab2"),
    *("timefeatures", "trihead"),
)
SIZES = [(name, scale) for name in shipped() for scale in scales(find(name))]
SCORED = [(name, scale) for name, scale in SIZES if scale != "paper" and name != "fig4b"]
PAPER = [name for name, scale in SIZES if scale == "paper"]
OURS = "hypothesis of ours"
METHOD = ("name", "heads.", "objectives.", "pairs.", "times.", "evaluation.sampler.")
"""What methods may differ in, and what else the question of a study is about:"""
ASKED = {"epsilon": ("train.precision",), "timefeatures": ("backbone.",), "guidance": ("guidance.",)}
OWN_RECIPES = [("tab2", "cifar")]
"""Where every method has its published settings, and equal time."""
SLOW = 2e9
"""FLOP/s that the slowest machine in use does with small networks."""
TINY = [
    *("budget.amount=2", "seeds=[0]", "looks=0", "nfe=[1]", "settings.diagnose.every=0", "settings.train.batch=16"),
    *("settings.evaluation.count=64", "settings.evaluation.reference=64"),
]


@cache
def study(name: str, scale: str) -> Study:
    return load(find(name), scale)


@cache
def planned(name: str, scale: str) -> list[Row]:
    return rows(study(name, scale))


def first_of_groups(name: str, scale: str) -> list[Row]:
    """A variant of every group: points of its axes cost nearly the same."""
    return list({row.group: row for row in reversed(planned(name, scale))}.values())


def differing(found: list[Row]) -> list[str]:
    """Keys of the settings that are not the same in all variants."""
    trees = [dict(leaves(row.experiment.tree())) for row in found]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    return [key for key in keys if len({repr(tree.get(key)) for tree in trees}) > 1]


class Silent:
    """Watches a study without a word."""

    def begun(self, task: Task) -> None: ...

    def beat(self, task: Task, step: int) -> None: ...

    def ended(self, task: Task, error: str) -> None:
        assert not error


def test_what_is_shipped() -> None:
    assert shipped() == sorted(NAMES)
    for name in NAMES:
        expected = ["toy", "digits"] if name == "family" else ["toy", "digits", "cifar", "paper"]
        assert scales(find(name)) == [scale for scale in expected if (name, scale) != ("fig4b", "digits")]


@pytest.mark.parametrize(("name", "scale"), SIZES)
class TestEverySize:
    def test_it_loads_back_to_an_equal_study(self, name: str, scale: str) -> None:
        found = study(name, scale)
        assert found.name == name
        assert found.title
        assert found.question.rstrip().endswith((".", "?"))
        told = write_toml(found.model_dump(mode="json", exclude_none=True))
        assert Study.model_validate(tomllib.loads(told)) == found

    def test_it_is_planned(self, name: str, scale: str) -> None:
        found = planned(name, scale)
        points = sum(prod(len(a.values) for a in c.axes.values()) for c in study(name, scale).variants.values())
        assert len({row.name for row in found}) == len(found) == points
        assert len({row.title for row in found}) == len(found)
        assert len({(repr(row.experiment.learns()), row.change.share) for row in found}) == points
        for row in found:
            assert not study(name, scale).nfe or row.experiment.evaluation.nfe == study(name, scale).nfe

    def test_its_claims_can_be_tested(self, name: str, scale: str) -> None:
        found = study(name, scale)
        for claim in found.claims:
            assert claim.source.startswith("DuMo ") or claim.source == OURS
            assert claim.says.endswith((".", ")"))
            if (name, scale) in SCORED:
                assert claim.metric in found.metrics
                assert claim.nfe in found.nfe
        assert found.claims or (name, scale) == ("guidance", "paper")


@pytest.mark.parametrize(("name", "scale"), SCORED)
class TestScored:
    def test_variants_differ_in_what_the_question_is_about_alone(self, name: str, scale: str) -> None:
        found = planned(name, scale)
        allowed = METHOD + ASKED.get(name, ())
        if (name, scale) in OWN_RECIPES:
            kind = study(name, scale).budget
            assert kind is not None
            assert kind.kind == "seconds"
            return
        assert [key for key in differing(found) if not key.startswith(allowed)] == []

    def test_every_variant_has_a_run_for_every_seed(self, name: str, scale: str) -> None:
        found, three = planned(name, scale), study(name, scale)
        made = jobs(three, found, Path("cells"), dict.fromkeys((row.name for row in found), 0.25))
        assert three.seeds == (0, 1, 2)
        assert [(job.variant, job.seed) for job in made] == [(row.name, seed) for seed in (0, 1, 2) for row in found]
        assert all(job.experiment.train.steps >= (150 if name == "family" else 600) for job in made)
        assert all((job.after is not None) == (name == "fig5" and job.variant == "dumo") for job in made)

    def test_a_run_on_a_cpu_takes_less_than_an_hour(self, name: str, scale: str) -> None:
        if scale == "cifar":
            assert study(name, scale).budget is not None
            return
        longest = max(planned(name, scale), key=lambda row: row.change.share)
        asked = study(name, scale)
        (made,) = bills(asked, [longest])  # of three seeds
        assert asked.budget is not None
        dearer = 1 if asked.budget.kind == "passes" else 2  # than this variant; at most
        assert dearer * made.hours(SLOW) / 3 < 1


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_size_is_counted_and_not_run(name: str) -> None:
    found = study(name, "paper")
    assert found.measure == "cost"
    assert len(found.seeds) == 1
    assert found.budget is None or found.budget.kind == "steps"


def test_a_bill_of_the_papers_size() -> None:
    """Fig. 4b: 1 + 3 passes against 1 + 4 are six forwards against seven."""
    found = [row for row in planned("fig4b", "paper") if row.point == {"size": "dit-b/2"}]
    dumo, meanflow = bills(study("fig4b", "paper"), found)
    assert (dumo.passes, meanflow.passes) == (4, 5)
    assert dumo.batch * dumo.steps == meanflow.batch * meanflow.steps == 512 * 10_000
    assert meanflow.flops / dumo.flops == pytest.approx(7 / 6, rel=0.01)
    assert dumo.hours() == dumo.flops / RATE / 3600


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_bills_of_the_papers_sizes(name: str) -> None:
    made = bills(study(name, "paper"), first_of_groups(name, "paper"))
    assert all(bill.parameters > 5e7 for bill in made)
    assert all(0.5 < bill.hours() < 2000 for bill in made)


def test_published_lengths() -> None:
    """DuMo Tab. 1 and Sec. 4.3, in epochs of 1,281,167 images."""
    made = {row.name: row.experiment.train for row in planned("tab1-256", "paper")}
    epochs = {name: round(train.steps * train.batch / 1_281_167) for name, train in made.items()}
    assert epochs == {"dumo": 240, "meanflow": 240, "shortcut": 250, "dumo-long": 432, "meanflow-long": 1000}
    made = {row.name: row.experiment.train for row in planned("tab1-512", "paper")}
    epochs = {name: round(train.steps * train.batch / 1_281_167) for name, train in made.items()}
    assert epochs == {"dumo": 360, "meanflow": 360, "dumo-long": 840, "meanflow-long": 840}
    three = study("trihead", "paper")
    assert three.budget is not None
    assert round(three.budget.amount * 512 / 1_281_167) == 424


def test_tri_heads_are_weighed_alike_at_every_size() -> None:
    weights = {}
    for scale in ("digits", "cifar", "paper"):
        for row in planned("trihead", scale):
            found = {key: objective.weight(0.5) for key, objective in row.experiment.objectives.items()}
            assert weights.setdefault(row.name, found) == pytest.approx(found)
    assert weights["trihead-mf"] == pytest.approx({"fm": 0.7, "mf": 0.15, "cm": 0.15})
    assert weights["trihead-sc-trunk"] == pytest.approx({"fm": 0.7, "sc": 0.15, "cm": 0.15})
    assert weights["trihead-gan"] == pytest.approx({"fm": 0.7, "cm": 0.3, "gan": 1.0})


def test_a_study_from_its_file_to_its_verdicts(tmp_path: Path) -> None:
    tiny = load(find("trihead"), "toy", TINY)
    made = Conductor(tiny, tmp_path / "study", tmp_path / "runs", scale="toy").run(Silent())
    assert [cell.state for cell in made.cells] == ["done"] * 7
    assert {cell.steps for cell in made.cells} == {2}
    assert [verdict.verdict for verdict in made.verdicts] == ["inconclusive"] * 6
    assert all("one seed alone" in verdict.measured for verdict in made.verdicts)
    again = Conductor(tiny, tmp_path / "study", tmp_path / "runs", scale="toy")
    assert again.tasks() == []
    assert again.run(Silent()).verdicts == made.verdicts


def test_the_study_in_the_manual_is_one() -> None:
    text = (Path(__file__).parent.parent / "docs/studies.md").read_text(encoding="utf-8")
    blocks = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    assert blocks
    for tree in blocks:
        found = Study.model_validate(tree)
        assert len(rows(found)) == 4
        assert found.claims


def test_the_manual_names_every_study() -> None:
    text = (Path(__file__).parent.parent / "docs/studies.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"| `{name}` |" in text
        assert len(planned(name, "toy")) == int(re.findall(rf"\| `{name}` \|.*\| (\d+) \|$", text, re.MULTILINE)[0])
        assert read_toml(find(name))["title"]
