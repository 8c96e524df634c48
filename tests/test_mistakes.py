"""Wrong command lines, recipes, files and folders: a sentence, an exit code, no traceback, no run folder touched."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import types
import typing
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import annotated_types as bounds
import pytest
from pydantic.fields import FieldInfo

from genobj.cli.main import run
from genobj.cli.resolve import resolve
from genobj.config.base import Config
from genobj.config.load import leaves
from genobj.parts import FAMILIES
from genobj.registry import Registry


class Case(NamedTuple):
    """A command line, and what the answer has to say."""

    arguments: list[str]
    says: tuple[str, ...] = ()
    code: int = 2

    def __str__(self) -> str:
        return " ".join(self.arguments)


TRAIN = ["train", "--out", "new", "train.steps=1", "evaluation.count=8", "evaluation.reference=8"]

PLACES = {
    "objectives": "objectives.fm",
    "heads": "heads.v",
    "backbones": "backbone",
    "paths": "path",
    "times": "times",
    "pairs": "pairs",
    "distances": "objectives.fm.distance",
    "guidance": "guidance",
    "samplers": "evaluation.sampler",
    "grids": "evaluation.sampler.grid",
    "data": "data",
    "metrics": "evaluation.metrics.mine",
    "extractors": "evaluation.extractor",
    "schedules": "objectives.fm.weight",
}
"""Where a part of each family stands in the settings tree."""


def choose(family: str, name: str) -> list[str]:
    """Overrides that put a part in its place."""
    euler = ["evaluation.sampler.kind=euler"] if family == "grids" else []
    return [*euler, f"{PLACES[family]}.kind={name}"]


def typos(name: str) -> set[str]:
    """Near misses of a name."""
    return {name + "x", name[:-1] + "q", name[1:], name[:2] + "-" + name[2:]} if len(name) > 2 else {name + "x"}


def unknown_names() -> Iterator[Case]:
    """Every name of every family, misspelt."""
    for family, registry in FAMILIES.items():
        wrong = {typo for name in registry.names() for typo in typos(name)} - set(registry.names())
        for typo in sorted(wrong):
            yield Case([*TRAIN, *choose(family, typo)], (PLACES[family], repr(typo)))


def wrong_numbers(annotation: Any, rules: typing.Iterable[Any]) -> Iterator[str]:
    """Values just outside the bounds of a field, as TOML."""
    for rule in rules:
        match rule:
            case FieldInfo():
                yield from wrong_numbers(None, rule.metadata)
            case bounds.Gt():
                yield f"{rule.gt}"
            case bounds.Ge():
                yield f"{rule.ge - 1}"  # type: ignore[operator]
            case bounds.Lt():
                yield f"{rule.lt}"
            case bounds.Le():
                yield f"{rule.le + 1}"  # type: ignore[operator]
            case bounds.MultipleOf():
                yield f"{rule.multiple_of * 2 + 1}"  # type: ignore[operator]
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from wrong_numbers(inner[0], inner[1:])
    elif get_origin(annotation) in (Union, types.UnionType):
        for choice in inner:
            yield from wrong_numbers(choice, ())
    elif get_origin(annotation) is tuple:
        for value in wrong_numbers(inner[0], ()):
            yield f"[{', '.join([value] * (1 if inner[-1] is ... else len(inner)))}]"


def fields(cls: type[Config], place: str) -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a settings class and of the plain tables in it, with its dotted name."""
    for name, info in cls.model_fields.items():
        yield f"{place}{name}", info
        if isinstance(info.annotation, type) and issubclass(info.annotation, Config) and not info.metadata:
            yield from fields(info.annotation, f"{place}{name}.")


def out_of_range() -> Iterator[Case]:
    """Every bounded number of the settings tree and of every part, on the wrong side of each bound."""
    tree = resolve()[0]
    for key, info in fields(type(tree), ""):
        for value in wrong_numbers(info.annotation, info.metadata):
            yield Case([*TRAIN, f"{key}={value}"], (key, "got"))
    for family, registry in FAMILIES.items():
        for name in registry.names():
            for key, info in fields(registry.get(name), f"{PLACES[family]}."):
                for value in wrong_numbers(info.annotation, info.metadata):
                    yield Case([*TRAIN, *choose(family, name), f"{key}={value}"], (key, "got"))


def wrong_types() -> Iterator[Case]:
    """Every leaf of the settings with a value of another type."""
    for key, value in leaves(resolve()[0].tree()):
        if key.endswith("kind") or key == "plugins":
            continue
        for wrong in ("7",) if isinstance(value, str) else ("banana", "[[]]"):
            yield Case([*TRAIN, f"{key}={wrong}"], (key,))
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield Case([*TRAIN, f"{key}=true"], (key, "true and false do not fit"))
        if isinstance(value, float):
            yield Case([*TRAIN, f"{key}=inf"], (key, "finite"))
            yield Case([*TRAIN, f"{key}=nan"], (key, "finite"))


def unknown_keys() -> Iterator[Case]:
    """An unknown key in every table, and a misspelt one for every key."""
    tree = dict(leaves(resolve()[0].tree()))
    tables = {key.rpartition(".")[0] for key in tree} - {"heads", "objectives"}
    for table in sorted(tables):
        key = f"{table}.bananas".lstrip(".")
        yield Case([*TRAIN, f"{key}=1"], ("unknown key 'bananas'.", "Known keys: "))
    for key in tree:
        leaf = key.rpartition(".")[2]
        if len(leaf) > 3 and leaf != "kind":
            yield Case([*TRAIN, f"{key}x=1"], (f"unknown key '{leaf}x'.", f"Did you mean '{leaf}'"))


DIGITS = ["train", "-r", "dumo-digits", "--out", "new", "train.steps=1", "evaluation.count=8"]

NEEDS = [
    # heads and objectives
    Case([*TRAIN, "--heads", "v", "--objectives", "fm,cm"], ("2 objectives but 1 head; type --heads v,u",)),
    Case([*TRAIN, "--heads", "u", "--objectives", "fm,cm,fm"], ("names 'fm' twice",)),
    Case([*TRAIN, "--heads", "v,u,w", "--objectives", "fm,cm"], ("no objective trains head 'w'; type --heads v,u",)),
    Case([*TRAIN, "--heads", "v,v"], ("--heads names 'v' twice",)),
    Case([*TRAIN, "--heads", "v,,u"], ("--heads 'v,,u' has an empty name", "as in --heads v,u")),
    Case([*TRAIN, "--heads", ""], ("has an empty name",)),
    Case([*TRAIN, "--objectives", ""], ("has an empty name",)),
    Case([*TRAIN, "--objectives", "@v"], ("objectives",)),
    Case(["cost", "dumo-in256-xl2"], ("'dumo-in256-xl2' is a recipe; type -r dumo-in256-xl2",)),
    Case([*TRAIN, "--heads", "w"], ("trains head 'v', but the model has w; type --heads v,u",)),
    Case([*TRAIN, "--heads", "v,w", "--objectives", "fm@v,cm@u"], ("trains head 'u'", "type --heads v,u")),
    Case(
        [*TRAIN, "--heads", "v", "--objectives", "fm@v,cm@v"],
        ("rows of head 'v' where r = t", "type pairs=zero pairs.equal_share=0.5"),
    ),
    Case([*TRAIN, "--objectives", "flow-matching"], ("unknown objective 'flow-matching'. Did you mean 'fm'?",)),
    Case([*TRAIN, "--objectives", "fm,cn"], ("objectives.cn: unknown objective 'cn'. Did you mean 'ct' or 'cm'?",)),
    Case([*TRAIN, "--objectives", "fn"], ("unknown objective 'fn'. Did you mean 'fm'",)),
    Case(
        [*TRAIN, "--objectives", "twinflow"],
        ("twinflow needs rows of its own kinds (adv, e2e), which pairs=twin makes; type pairs=twin",),
    ),
    Case([*TRAIN, "-r", "imm-moons", "train.batch=7"], ("7 rows are no whole groups of 4; type train.batch=8",)),
    Case([*TRAIN, "-r", "imm-moons", "train.batch=2"], ("no whole groups of 4; type train.batch=4",)),
    Case([*TRAIN, "--objectives", "fm cm"], ("unknown objective 'fm cm'", "Known objectives: alphaflow, cm")),
    Case([*TRAIN, "--heads", "keys", "--objectives", "fm"], ("'keys' cannot name a head",)),
    Case([*TRAIN, "--heads", "a.b", "--objectives", "fm"], ("head",)),
    Case([*TRAIN, "heads=v"], ("heads: this is a table of settings, got 'v'",)),
    Case([*TRAIN, "heads=3", "--heads", "v"], ("heads: this is a table",)),
    Case([*TRAIN, "heads.w.kind=projection"], ("no objective trains head 'w'",)),
    Case([*TRAIN, "objectives={}"], ("objectives: ", "at least 1")),
    Case([*TRAIN, "objectives=[]"], ("objectives: ", "at least 1")),
    Case([*TRAIN, "objectives=7"], ("objectives: this is a table of settings, got 7",)),
    Case([*TRAIN, "objectives=[1, 2]"], ("objectives: this is a table",)),
    Case([*TRAIN, "objectives.mine.weight=1"], ("unknown objective 'mine'",)),
    Case([*TRAIN, "objectives.loss.kind=fm"], ("objectives.loss: metrics.jsonl has a column of this name",)),
    Case([*TRAIN, "objectives.fm.head=u"], ("no objective trains head 'v'; type --heads u",)),
    Case(
        [*TRAIN, "--objectives", "fm@u,cm@u", "pairs.equal_share=0.5"],
        ("head 'u' for the jump to r = 0", "type pairs=zero"),
    ),
    Case([*TRAIN, "--objectives", "fm,sc"], ("nothing ties head 'u' to the data", "type pairs.equal_share=0.25")),
    Case([*TRAIN, "--objectives", "split"], ("nothing ties head 'u' to the data", "type pairs.equal_share=0.25")),
    Case([*TRAIN, "objectives.fm.kind=7"], ("say which objective: kind = one of alphaflow, cm",)),
    # settings that contradict each other
    Case([*TRAIN, "guidance=self"], ("guidance needs labelled data; type guidance=none",)),
    Case([*DIGITS, "data.labelled=false", "guidance=self"], ("guidance needs labelled data",)),
    Case(
        [*DIGITS, "guidance=self", "objectives.cm.derivative.direction=conditional"],
        ("objectives.cm: the conditional direction diverges under guidance; type derivative.direction=guided",),
    ),
    Case([*DIGITS, "--heads", "u", "--objectives", "cm", "guidance=self"], ("guidance needs a head that gives",)),
    Case([*DIGITS, "guidance=frozen"], ("frozen guidance needs a teacher; type teacher.from=runs/NAME",)),
    Case([*DIGITS, "guidance=frozen", "guidance.teacher=nowhere"], ("there is no nowhere here; type a run's folder",)),
    Case([*DIGITS, "guidance=frozen", "guidance.teacher=moons"], ("the teacher moons was trained on (2,)",)),
    Case(
        [*DIGITS, "guidance=frozen", "guidance.teacher=jumps"],
        ("the teacher jumps has only u (data), and distilling or guidance needs a velocity: type a run with",),
    ),
    Case([*DIGITS, "guidance=frozen", "guidance.teacher=ema_truncated"], ("ema_truncated was trained on (2,)",)),
    Case([*DIGITS, "guidance.kind=self", "guidance.interval=[0.9, 0.1]"], ("type [0.1, 0.9]",)),
    Case([*DIGITS, "guidance.kind=self", "guidance.interval=[0.9]"], ("guidance.interval",)),
    Case([*TRAIN, "train.micro_batch=100"], ("train.batch=256 is not a multiple of train.micro_batch=100",)),
    Case([*TRAIN, "train.micro_batch=512"], ("not a multiple",)),
    Case([*TRAIN, "train.device=tpu"], ("train.device",)),
    Case([*TRAIN, "train.device=cuda:99"], ("this machine has no such GPU; type cpu",)),
    Case([*TRAIN, "train.precision=fp16"], ("train.precision", "'float32', 'bf16' or 'bf16_pure'")),
    Case([*TRAIN, "train.precision=bf61"], ("Did you mean 'bf16'?",)),
    Case([*TRAIN, "optim.schedule=cosin"], ("Did you mean 'cosine'?",)),
    Case([*TRAIN, "distributed.strategy=ddp9"], ("distributed.strategy",)),
    Case([*TRAIN, "objectives.cm.derivative.method=forward"], ("objectives.cm.derivative.method", "'central'")),
    Case([*TRAIN, "pairs.share_by=suffix"], ("pairs.share_by",)),
    Case([*TRAIN, "optim.betas=[0.9]"], ("optim.betas",)),
    Case([*TRAIN, "optim.betas=[0.9, 0.9, 0.9]"], ("optim.betas",)),
    Case([*TRAIN, "ema.decays=[]"], ("ema.decays",)),
    Case([*TRAIN, "evaluation.nfe=[]"], ("evaluation.nfe",)),
    Case([*TRAIN, "evaluation.nfe=[1000000000000]"], ("evaluation.nfe",)),
    Case([*TRAIN, "name=a/b"], ("name",)),
    Case([*TRAIN, "name="], ("name",)),
    # data, backbone and metrics that do not fit
    Case([*TRAIN, "--backbone", "unet"], ("backbone unet takes images", "type backbone=mlp")),
    Case([*TRAIN, "--backbone", "dit-tiny"], ("backbone dit takes images", "type backbone=mlp")),
    Case([*TRAIN, "--backbone", "dit-huge/2"], ("unknown size 'huge/2' of backbone dit", "dit-xl/2")),
    Case([*TRAIN, "--backbone", "dit-b/0"], ("unknown size 'b/0'",)),
    Case([*TRAIN, "--backbone", "unet-big"], ("unknown size 'big' of backbone unet; type unet-tiny",)),
    Case([*TRAIN, "--backbone", "mlp-big"], ("unknown backbone 'mlp-big'. Did you mean 'mlp'?",)),
    Case([*TRAIN, "--backbone", "DiT_b/2"], ("unknown backbone",)),
    Case([*DIGITS, "--backbone", "dit-tiny", "backbone.patch=3"], ("not divisible by patch 3; type backbone.patch=",)),
    Case([*DIGITS, "--backbone", "dit-tiny", "backbone.heads=5"], ("64 is not divisible by 5 attention heads",)),
    Case([*DIGITS, "backbone.multipliers=[1, 1, 1, 1, 1]"], ("cannot be halved 4 times",)),
    Case([*DIGITS, "backbone.filter=[1]"], ("even number of taps",)),
    Case([*DIGITS, "--data", "moons"], ("metric 'fd'",)),
    Case([*TRAIN, 'evaluation.metrics=["fd"]'], ("metric 'fd'",)),
    Case([*TRAIN, 'evaluation.metrics=["mmdd"]'], ("unknown metric 'mmdd'. Did you mean 'mmd'?",)),
    Case([*TRAIN, "evaluation.metrics=fid"], ("metric 'fid': Inception sees images",)),
    Case([*DIGITS, "data.labelled=false", 'evaluation.metrics=["accuracy"]'], ("accuracy needs the ten labels",)),
    Case([*TRAIN, "--data", "mnistt"], ("unknown data set 'mnistt'", "mnist")),
    Case([*TRAIN, "data=[]"], ("data",)),
    Case([*TRAIN, "data=3"], ("data",)),
    Case([*TRAIN, "--data", "normal", "data.sizes=[]"], ("data.sizes",)),
    # samplers
    Case([*TRAIN, "--heads", "v", "--objectives", "fm", "evaluation.sampler=restart"], ("restart", "use euler")),
    Case([*TRAIN, "--heads", "u", "--objectives", "cm", "evaluation.sampler=heun"], ("nfe=1 in all: type nfe=2",)),
    Case([*TRAIN, "--heads", "u", "--objectives", "cm", "evaluation.sampler=euler"], ("needs a head that gives",)),
    Case(
        [*TRAIN, "evaluation.sampler.kind=euler", "evaluation.sampler.head=x"], ("has no head 'x': choose from v, u",)
    ),
    Case([*TRAIN, "evaluation.sampler.kind=euler", "evaluation.sampler.guidance=2"], ("guidance needs labelled data",)),
    Case([*TRAIN, "evaluation.sampler.kind=euler", "evaluation.sampler.interval=[1, 0]"], ("0 <= low <= high <= 1",)),
    Case([*TRAIN, "evaluation.sampler.kind=restart", "evaluation.sampler.kapa=0"], ("Did you mean 'kappa'?",)),
    # the command line itself
    Case([*TRAIN, "optim.lr"], ("'optim.lr' is not an override; type key=value, as in optim.lr=3e-4",)),
    Case([*TRAIN, "=3"], ("is not an override",)),
    Case([*TRAIN, "a..b=3"], ("is not an override",)),
    Case([*TRAIN, "optim.lr="], ("optim.lr",)),
    Case([*TRAIN, "optim.lr=1e-4e"], ("optim.lr", "1e-4e")),
    Case([*TRAIN, "optim.learning_rate=1"], ("unknown key 'learning_rate'",)),
    Case([*TRAIN, "lr=1"], ("unknown key 'lr'",)),
    Case([*TRAIN, "optim=fast"], ("optim.kind: Input should be 'adamw', 'radam', 'muon' or 'adamw8bit', got 'fast'",)),
    Case([*TRAIN, "train=5"], ("train: this is a table of settings, got 5",)),
    Case([*TRAIN, "train.steps.more=5"], ("train.steps",)),
    Case([*TRAIN, "seed.a.b.c=5"], ("seed",)),
    Case([*TRAIN, "train.steps=" + "[" * 3000], ("train.steps",)),
    Case([*TRAIN, "--seed", "-1"], ("seed", "greater than or equal to 0")),
    Case([*TRAIN, "--seed", "one"], ("--seed", "should be a valid integer", ". Try 'genobj train --help'.")),
    Case([*TRAIN, "--sead", "1"], ("No such option: --sead", ". Try 'genobj train --help'.")),
    Case([*TRAIN, "--recipe"], ("--recipe",)),
    Case([*TRAIN, "-r", "fm-moons", "-r", "imm-moons"], ("--recipe is given 2 times (fm-moons, imm-moons); give one",)),
    Case(["cost", "-r", "fm-moons", "-r", "fm-moons"], ("--recipe is given 2 times",)),
    Case(["tran"], ("No such command 'tran'", "Try 'genobj --help'.")),
    Case(["new"], ()),
    Case(["new", "thing"], ("No such command 'thing'. Try 'genobj new --help'.",)),
    Case(["new", "objective"], ("Missing argument",)),
    Case(["new", "objective", "My-Loss"], ("type lower-case letters",)),
    Case(["new", "objective", "3d"], ("cannot name an objective",)),
    Case(["new", "objective", "für"], ("cannot name an objective",)),
    Case(["new", "objective", "mine_"], ("cannot name an objective",)),
    Case(["new", "objective", "fm"], ("objective 'fm' is already taken",)),
    Case(["new", "objective", "mine", "--out", "moons"], ("moons is not empty",)),
    Case(["new", "objective", "mine", "--out", "file.txt"], ("file.txt",), 1),
    Case(["new", "objective", "mine", "--out", "file.txt/below"], ("Not a directory",), 1),
    Case(["list", "objektives"], ("unknown family 'objektives'. Did you mean 'objectives'",)),
    Case(["list", "everything"], ("Families: objectives, heads",)),
    Case(["list", "--plugin", "nothing.py"], ("nothing.py: there is no such Python file",)),
    Case(["check"], ("Missing argument",)),
    Case(["check", "fmm"], ("no part is called 'fmm'. Did you mean 'fm'",)),
    Case(["check", "objectives:euler"], ("no part is called 'euler'",)),
    Case(["check", "objektive:fm"], ("unknown family 'objektive'",)),
    Case(["check", "grids:"], ("no part is called ''",)),
    Case(["cite", "-r", "dumo-moon"], ("Did you mean 'dumo-moons'",)),
    Case(["cost", "--backbone", "unet"], ("takes images",)),
    Case(["schema", "now"], ("unexpected extra argument",)),
    # recipes
    Case([*TRAIN, "-r", "dumo-moon"], ("unknown recipe 'dumo-moon'. Did you mean 'dumo-moons'",)),
    Case([*TRAIN, "-r", "nothing.toml"], ("recipe file 'nothing.toml' does not exist. Shipped recipes: genobj list",)),
    Case([*TRAIN, "-r", "no/such/recipe"], ("does not exist",)),
    Case([*TRAIN, "-r", "empty_folder"], ("is a folder without config.toml",)),
    Case([*TRAIN, "-r", "./empty_folder"], ("is a folder without config.toml",)),
    Case([*TRAIN, "-r", "/dev/null/x.toml"], ("does not exist",)),
    Case([*TRAIN, "-r", "file.txt/x.toml"], ("does not exist",)),
    Case([*TRAIN, "-r", "x" * 300 + ".toml"], ("File name too long",), 1),
    # output
    Case([*TRAIN, "--out", "file.txt"], ("file.txt: File exists",), 1),
    Case([*TRAIN, "--out", "file.txt/run"], ("Not a directory",), 1),
    Case([*TRAIN, "--out", "/proc/run"], ("/proc/run",), 1),
    Case([*TRAIN, "--out", "/sys/kernel/run"], ("/sys/kernel/run",), 1),
    Case([*TRAIN, "--out", "y" * 300], ("File name too long",), 1),
    Case([*TRAIN, "--out", "moons"], ("moons already holds a run; continue it with --resume auto, or choose",)),
    Case([*TRAIN, "--out", "recipes"], ("recipes is not empty and holds no run; choose another --out",)),
    # resume
    Case(["train", "--resume", "nowhere"], ("--resume nowhere: there is no run in this folder",)),
    Case(["train", "--resume", "file.txt"], ("there is no run in this folder",)),
    Case(["train", "--resume", ""], ("there is no run in this folder",)),
    Case(["train", "--resume", "moons", "--out", "other"], ("name two folders; give one of them",)),
    Case(["train", "--resume", "moons", "optim.lr=5"], ("other settings (optim.lr: 0.003 -> 5.0)", "its own")),
    Case(["train", "--resume", "moons", "--seed", "3"], ("(seed: 0 -> 3)",)),
    Case(["train", "--resume", "auto", "--out", "moons", "--seed", "3"], ("(seed: 0 -> 3)",)),
    Case(["train", "--resume", "moons", "-r", "fm-moons"], ("moons is a run with other settings", "more)")),
    Case(["train", "--resume", "auto", "--out", "recipes"], ("recipes is not empty and holds no run",)),
    # sample and evaluate
    Case(["sample"], ("there is no runs/latest here; type a run's folder", "genobj train")),
    Case(["sample", "nowhere"], ("there is no nowhere here; type a run's folder",)),
    Case(["sample", "file.txt"], ("file.txt",)),
    Case(["sample", "recipes"], ("recipes is not a run folder",)),
    Case(["sample", "moons", "--nfe", "0"], ("--nfe '0': type numbers from 1",)),
    Case(["sample", "moons", "--nfe", "-1"], ("type numbers from 1",)),
    Case(["sample", "moons", "--nfe", "two"], ("--nfe 'two'",)),
    Case(["sample", "moons", "--nfe", "1,,2"], ("--nfe '1,,2'",)),
    Case(["sample", "moons", "--nfe", "1.5"], ("--nfe '1.5'",)),
    Case(["sample", "moons", "--nfe", "1000000000000"], ("type numbers from 1 to 10000",)),
    Case(["sample", "moons", "--count", "0"], ("--count",)),
    Case(["sample", "moons", "--count", "many"], ("--count", "should be a valid integer")),
    Case(["sample", "moons", "--seed", "-1"], ("--seed",)),
    Case(["sample", "moons", "--label", "3"], ("--label 3: this model has no labels",)),
    Case(["sample", "digits", "--label", "10"], ("--label 10: this model has labels 0 to 9",)),
    Case(["sample", "digits", "--label", "-1"], ("--label",)),
    Case(["sample", "moons", "--weights", "emma"], ("has no weights 'emma'; choose from live, ema, 0.999",)),
    Case(["sample", "moons", "--weights", "0.5"], ("choose from live, ema, 0.999",)),
    Case(
        ["sample", "moons", "--sampler", "nope"],
        ("Known samplers: edm, euler", "; presets: ect-1, ect-2", "twinflow-any."),
    ),
    Case(["sample", "."], (". is not a run folder: it has no config.json; type ",)),
    Case(["evaluate", "."], (". is not a run folder: it has no config.json; type ",)),
    Case(["report", "."], (". is not a run folder: it has no config.json; type ",)),
    Case(["report", "moons", "."], (". is not a run folder: it has no config.json; type ",)),
    Case(["report", "recipes"], ("recipes is not a run folder: it has no config.json\n",)),
    Case(["sample", "moons", "--sampler", "eular"], ("unknown sampler 'eular'. Did you mean 'euler'?",)),
    Case(["sample", "jumps", "--sampler", "euler"], ("needs a head that gives the velocity", "use restart")),
    Case(["sample", "moons", "--sampler", "heun", "--nfe", "3"], ("not nfe=3 in all: type nfe=2 or nfe=4",)),
    Case(["sample", "moons", "--sampler", "flow_map", "--nfe", "2"], ("flow_map with 2 steps needs",)),
    Case(["sample", "moons", "kappa=2"], ("kappa: Input should be less than or equal to 1, got 2",)),
    Case(["sample", "moons", "kapa=1"], ("unknown key 'kapa'. Did you mean 'kappa'?",)),
    Case(["sample", "moons", "kappa"], ("is not an override",)),
    Case(["sample", "moons", "guidance=2"], ("guidance=2.0 needs a model with a null label",)),
    Case(["sample", "moons", "--sampler", "euler", "grid=even"], ("unknown time grid 'even'",)),
    Case(["sample", "moons", "--out", "picture.jpg"], ("type a file that ends in .png or .npz",)),
    Case(["sample", "moons", "--out", "no/folder/x.png"], ("there is no folder no/folder",)),
    Case(["sample", "moons", "--out", "file.txt/x.png"], ("there is no folder file.txt",)),
    Case(["sample", "moons", "--out", "/proc/x.npz"], ("/proc/x.npz",), 1),
    Case(["sample", "moons", "--out", "x.npz", "--nfe", "1,2"], ("holds samples of one --nfe",)),
    Case(["evaluate", "nowhere"], ("there is no nowhere here; type a run's folder",)),
    Case(["evaluate", "moons", "--metrics", "fid"], ("metric 'fid': Inception sees images",)),
    Case(["evaluate", "moons", "--metrics", ""], ("metrics",)),
    Case(["evaluate", "moons", "--metrics", "fd"], ("metric 'fd'",)),
    Case(["evaluate", "moons", "--count", "1"], ("--count",)),
    Case(["evaluate", "moons", "--nfe", "x"], ("--nfe 'x'",)),
    Case(["evaluate", "moons", "--weights", "x"], ("choose from live, ema",)),
    Case(["evaluate", "moons", "--sampler", "x"], ("unknown sampler 'x'",)),
    Case(["evaluate", "moons", "--out", "no/folder/x.json"], ("there is no folder no/folder",)),
    Case(["evaluate", "moons", "--out", "moons"], ("this is a folder",)),
]
"""Contradictory needs and slips of the finger, with what the answer has to say."""

RECIPES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "truncated": (b'[optim]\nlr = 3e-3\nschedule = "cos', ("recipes/truncated.toml is not a TOML file",)),
    "binary": (bytes(range(256)), ("is not a TOML file",)),
    "latin1": ("# für Zwei\nseed = 1\n".encode("latin-1"), ("is not a TOML file", "utf-8")),
    "utf16": ("seed = 1\n".encode("utf-16"), ("is not a TOML file",)),
    "no_value": (b"seed = \n", ("is not a TOML file", "line 1")),
    "no_equals": (b"seed 1\n", ("is not a TOML file",)),
    "twice": (b"seed = 1\nseed = 2\n", ("is not a TOML file",)),
    "two_tables": (b"[optim]\n[optim]\n", ("is not a TOML file",)),
    "zeros": (b"\0" * 64, ("is not a TOML file",)),
    "json": (b'{"seed": 1}', ("is not a TOML file",)),
    "yaml": (b"optim:\n  lr: 1\n", ("is not a TOML file",)),
    "deep": (b"seed = " + b"[" * 3000 + b"]" * 3000, ("nested too deeply",)),
    "kind_missing": (b"[evaluation.sampler]\nsteps = 3\n", ("evaluation.sampler: say which sampler",)),
    "empty_name": (b'[objectives.""]\n', ("objectives", "unknown objective ''")),
    "empty_kind": (b'[data]\nkind = ""\n', ("data: unknown data set ''",)),
    "kind_number": (b"[backbone]\nkind = 3\n", ("backbone: say which backbone",)),
    "empty_strings": (b'name = ""\n[train]\ndevice = ""\n', ("name", "train.device")),
    "empty_lists": (b"[ema]\ndecays = []\n", ("ema.decays",)),
    "quoted_number": (b'[train]\nbatch = "many"\n', ("train.batch",)),
    "date": (b"seed = 2020-01-01\n", ("seed",)),
    "list_of_tables": (b'[[objectives]]\nkind = "fm"\n', ("objectives: this is a table",)),
    "objectives_word": (b'objectives = "fm,cm"\n', ("unknown objective 'fm,cm'",)),
    "objectives_number": (b"[objectives]\nfm = 3\n", ("objectives.fm",)),
    "heads_word": (b'heads = "v,u"\n[objectives.fm]\n', ("heads: this is a table",)),
    "plugins_word": (b'plugins = "x.py"\n', ("plugins",)),
    "plugins_missing": (b'plugins = ["nothing.py"]\n', ("nothing.py: there is no such Python file",)),
    "plugins_numbers": (b"plugins = [3]\n", ("no such Python file",)),
    "unknown_table": (b"[optimizer]\nlr = 1\n", ("unknown key 'optimizer'. Did you mean 'optim'",)),
    "unknown_deep": (b"[objectives.cm.derivative]\nstepp = 1\n", ("objectives.cm.derivative", "Did you mean 'step'")),
    "many": (b"[train]\nbatch = -1\nthreads = -1\n[optim]\nlr = -1\n[ema]\ndecays = []\n", ("(and 2 more)",)),
    "huge": (b'[train]\nbatch = "' + b"x" * 10_000 + b'"\n', ("train.batch", "...")),
}
"""Recipe files and what the answer has to say."""

PLUGINS: dict[str, tuple[str, str]] = {
    "raises": ('raise RuntimeError("one\\ntwo\\nthree\\nfour")', "RuntimeError: one"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "syntax": ("class", "SyntaxError"),
    "imports": ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
    "takes": (
        "from genobj.parts import OBJECTIVES\n@OBJECTIVES.register('fm')\nclass A: pass\n",
        "objective 'fm' is already taken: genobj has it",
    ),
}
"""Plugin files that cannot be imported, and why."""

Damage = Callable[[Path], object]


def truncate(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def empty(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(b"")


def remove(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def flip(name: str, place: float) -> Damage:
    """One bit of the byte at this share of the file."""

    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        (folder / name).write_bytes(data)

    return damage


def settings(change: Callable[[dict[str, Any]], object]) -> Damage:
    """A change of config.json."""

    def damage(folder: Path) -> None:
        tree = json.loads((folder / "config.json").read_text())
        change(tree)
        (folder / "config.json").write_text(json.dumps(tree))

    return damage


def replace(name: str, text: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(text)


EMA, LIVE, STEP = "ema_0.999.safetensors", "model.safetensors", "checkpoints/step_00000001"
SHARD = "state/shard-00001-model-00001-of-00001"


class Malice:
    """An object whose pickle leaves a trace when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("malice-was-here"),)


MALICE = pickle.dumps(Malice())


def told(**changes: Any) -> Damage:
    """A change of a checkpoint's meta.json, with a checksum that fits."""

    def damage(folder: Path) -> None:
        file = folder / STEP / "meta.json"
        meta = {key: value for key, value in json.loads(file.read_text()).items() if key != "crc32"} | changes
        file.write_text(json.dumps(meta | {"crc32": f"{zlib.crc32(json.dumps(meta).encode()):08x}"}))

    return damage


WEIGHTS: dict[str, tuple[Damage, str]] = {
    "ema_truncated": (truncate(EMA), "is damaged"),
    "ema_empty": (empty(EMA), "is damaged"),
    "ema_length": (flip(EMA, 0.0), "is damaged"),
    "ema_header": (flip(EMA, 0.02), "is damaged"),
    "ema_bit": (flip(EMA, 0.6), "checksum"),
    "ema_last_bit": (flip(EMA, 1.0), "checksum"),
    "ema_foreign": (
        lambda folder: shutil.copy(folder.parent / "digits/ema_0.995.safetensors", folder / EMA),
        "does not",
    ),
    "ema_text": (replace(EMA, b"not a tensor"), "is damaged"),
    "ema_pickle": (replace(EMA, MALICE), "is damaged"),
    "json_truncated": (truncate("config.json"), "config.json is damaged"),
    "json_empty": (empty("config.json"), "config.json is damaged"),
    "json_list": (replace("config.json", b"[]"), "config.json is damaged"),
    "json_latin1": (replace("config.json", b'{"\xff": 1}'), "config.json is damaged"),
    "json_bit": (flip("config.json", 0.0), "config.json is damaged"),
    "json_folder": (lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()), "is damaged"),
    "json_no_average": (settings(lambda tree: tree.update(averages=[])), "names no average"),
    "json_no_heads": (settings(lambda tree: tree["model"].update(heads={})), "heads"),
    "json_no_shape": (settings(lambda tree: tree["model"].update(shape=[])), "shape"),
    "json_negative": (settings(lambda tree: tree["model"].update(shape=[-2])), "shape"),
    "json_horizon": (settings(lambda tree: tree["model"]["horizons"].update(v="sometimes")), "horizons.v"),
    "json_missing": (settings(lambda tree: tree["model"].pop("path")), "path: this setting is needed"),
    "json_backbone": (settings(lambda tree: tree["model"]["backbone"].update(kind="mlpp")), "Did you mean 'mlp'?"),
    "json_wider": (settings(lambda tree: tree["model"]["backbone"].update(width=17)), "does not fit these settings"),
    "json_other_head": (
        settings(lambda tree: tree["model"].update(heads={"w": {}}, horizons={"w": "data"})),
        "is in only one of the two",
    ),
    "json_shapes": (settings(lambda tree: tree["model"].update(shape=[1, 8, 8])), "does not fit these settings"),
    "json_network": (
        settings(lambda tree: tree["model"].update(backbone={"kind": "unet"})),
        "config.json does not describe a model",
    ),
    "no_weights": (
        lambda folder: (remove(EMA)(folder), shutil.rmtree(folder / "checkpoints")),
        "has no weights yet",
    ),
    "config_truncated": (replace("config.toml", b"[train\n"), "config.toml is not a TOML file"),
    "config_binary": (replace("config.toml", bytes(range(256))), "config.toml is not a TOML file"),
}
"""Damages that sample and evaluate meet, and what they have to say."""

CHECKPOINTS: dict[str, tuple[Damage, str]] = {
    **{
        f"resume_{name}_{how}": (damage(f"{STEP}/{name}.safetensors"), f"{name}.safetensors is ")
        for name in ("model", "ema_0.999", SHARD)
        for how, damage in {
            "truncated": truncate,
            "empty": empty,
            "removed": remove,
            "header": lambda file: flip(file, 0.02),
            "bit": lambda file: flip(file, 0.7),
        }.items()
    },
    "resume_meta_truncated": (truncate(f"{STEP}/meta.json"), "meta.json is damaged"),
    "resume_meta_empty": (empty(f"{STEP}/meta.json"), "meta.json is damaged"),
    "resume_meta_removed": (remove(f"{STEP}/meta.json"), "meta.json is damaged"),
    "resume_meta_list": (replace(f"{STEP}/meta.json", b"[]"), "meta.json is damaged"),
    "resume_meta_step": (replace(f"{STEP}/meta.json", b'{"step": 5, "seen": 9}'), "meta.json is damaged"),
    "resume_meta_bit": (flip(f"{STEP}/meta.json", 0.14), "meta.json is damaged"),
    "resume_meta_binary": (replace(f"{STEP}/meta.json", b"\xff\xfe\x00"), "meta.json is damaged"),
    "resume_foreign": (
        lambda folder: shutil.copy(folder.parent / "jumps" / STEP / LIVE, folder / STEP / LIVE),
        "is in only one of the two",
    ),
    "resume_config_json_truncated": (truncate(f"{STEP}/config.json"), "config.json is damaged"),
    "resume_config_json_removed": (remove(f"{STEP}/config.json"), "config.json is damaged"),
    "resume_foreign_network": (
        lambda folder: shutil.copy(folder.parent / "digits/config.json", folder / STEP / "config.json"),
        "holds another network than this run's",
    ),
    "resume_foreign_optimizer": (
        lambda folder: shutil.copy(next((folder.parent / "jumps" / STEP / "state").iterdir()), folder / STEP / "state"),
        "is damaged (its checksum is another one)",
    ),
    "resume_other_format": (told(format=1), "was written by another genobj (format 1, with torch"),
    "resume_newer_format": (told(format=99), "this one reads format 2); go on with that version"),
    "resume_pickled_weights": (replace(f"{STEP}/{LIVE}", MALICE), "model.safetensors is damaged"),
    "resume_pickled_state": (replace(f"{STEP}/{SHARD}.safetensors", MALICE), f"{SHARD}.safetensors is damaged"),
    "resume_pickled_state_signed": (
        lambda folder: (
            replace(f"{STEP}/{SHARD}.safetensors", MALICE)(folder),
            told(files={f"{SHARD.partition('/')[2]}.safetensors": f"{zlib.crc32(MALICE):08x}"})(folder),
        ),
        f"{SHARD}.safetensors is damaged",
    ),
    "resume_pickled_meta": (replace(f"{STEP}/meta.json", MALICE), "meta.json is damaged"),
    "resume_config": (replace("config.toml", b"[train\n"), "config.toml is not a TOML file"),
}
"""Damages that --resume meets, and what it has to say."""


def bad_files() -> Iterator[Case]:
    """Recipes, plugins and run folders that cannot be read."""
    for name, (_, says) in RECIPES.items():
        yield Case([*TRAIN, "-r", f"recipes/{name}.toml"], says)
    for name in ("objectives_word", "objectives_number", "list_of_tables", "heads_word", "plugins_word"):
        flags = ["--heads", "v,u", "--objectives", "fm,cmm", "--plugin", "nothing.py"]
        yield Case([*TRAIN, "-r", f"recipes/{name}.toml", *flags])
    for name, (_, says) in PLUGINS.items():
        yield Case([*TRAIN, "--plugin", f"plugins/{name}.py"], (f"plugins/{name}.py cannot be imported", says))
        yield Case(["check", "fm", "--plugin", f"plugins/{name}.py"], (says,))
    yield Case([*TRAIN, "--plugin", "plugins"], ("no such Python file",))
    yield Case([*TRAIN, "--plugin", "recipes/json.toml"], ("no such Python file",))
    for name, (_, says) in WEIGHTS.items():
        yield Case(["sample", name], (says,))
        yield Case(["evaluate", name, "--count", "8"], (says,))
    yield Case(["evaluate", "no_config"], ("no_config has no recipe",))
    for name, (_, says) in CHECKPOINTS.items():
        yield Case(["train", "--resume", name], (says,))


CASES = [*unknown_names(), *out_of_range(), *wrong_types(), *unknown_keys(), *NEEDS, *bad_files()]


def test_there_are_many_mistakes() -> None:
    assert len({str(case) for case in CASES}) == len(CASES) >= 200


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good runs, one without a velocity, many damaged ones, bad recipes, bad plugins."""
    folder = tmp_path_factory.mktemp("workspace")
    small = ["train.steps=1", "evaluation.count=8", "evaluation.reference=8", "pictures.count=4", "backbone.width=16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "--out", "moons", "evaluation.nfe=[1]", *small]) == 0
        labelled = ["-r", "dumo-digits", "--backbone", "mlp", "evaluation.nfe=[1]", "ema.decays=[0.995]"]
        assert run(["train", "--out", "digits", *labelled, *small]) == 0
        assert run(["train", "--out", "jumps", *labelled, "--heads", "u", "--objectives", "cm", *small]) == 0
    for name, (damage, _) in {**WEIGHTS, **CHECKPOINTS, "no_config": (remove("config.toml"), "")}.items():
        shutil.copytree(folder / "moons", folder / name, symlinks=True)
        damage(folder / name)
    for name in ("recipes", "plugins", "empty_folder"):
        (folder / name).mkdir()
    for name, (recipe, _) in RECIPES.items():
        (folder / f"recipes/{name}.toml").write_bytes(recipe)
    for name, (plugin, _) in PLUGINS.items():
        (folder / f"plugins/{name}.py").write_text(plugin)
    (folder / "file.txt").write_text("a regular file")
    return folder


def contents(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder."""
    found: dict[str, tuple[int, int]] = {}
    for entry in os.scandir(folder):
        stat = entry.stat(follow_symlinks=False)
        found[entry.path] = (stat.st_size, stat.st_mtime_ns)
        if entry.is_dir(follow_symlinks=False):
            found |= contents(entry.path)
    return found


def answers(code: int, error: str, case: Case) -> None:
    """A sentence and the right exit code."""
    assert code == case.code, error
    assert "Traceback" not in error
    if case.arguments != ["new"]:  # prints its help
        assert error.startswith("error: ")
        lines = error.rstrip("\n").split("\n")
        assert len(lines) <= (3 if "more)" in lines[-1] else 2), error
        assert max(map(len, lines)) < 700, error
        assert len(lines[0]) > len("error: ") + 10, error
    for words in case.says:
        assert words in error


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mistake_is_answered_in_a_sentence(
    case: Case, workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    before = contents(workspace)
    code = run(case.arguments)
    answers(code, capfd.readouterr().err, case)
    assert contents(workspace) == before


@pytest.mark.parametrize(
    "case",
    [
        Case(["tran"], ("No such command 'tran'",)),
        Case([*TRAIN, "--objectives", "flow-matching"], ("Did you mean 'fm'?",)),
        Case([*TRAIN, "--out", "file.txt/run"], ("Not a directory",), 1),
        Case(["sample", "ema_bit"], ("checksum",)),
    ],
    ids=str,
)
def test_a_process_answers_in_the_same_way(case: Case, workspace: Path) -> None:
    command = [sys.executable, "-m", "genobj", *case.arguments]
    answer = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=120)
    answers(answer.returncode, answer.stderr, case)


class TestSettingsFromAList:
    """What messages and docs advise to type has to work."""

    def test_a_list_of_metrics_takes_the_place_of_the_recipes(self) -> None:
        experiment, _ = resolve(overrides=['evaluation.metrics=["energy"]'])
        assert list(experiment.evaluation.metrics) == ["energy"]

    def test_objectives_as_a_list_or_a_word(self) -> None:
        experiment, _ = resolve(heads="v", overrides=["objectives=fm"])
        assert list(experiment.objectives) == ["fm"]
        experiment, _ = resolve(overrides=['objectives=["fm", "cm"]'])
        assert list(experiment.objectives) == ["fm", "cm"]


def test_a_disk_that_refuses_is_told(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from safetensors import SafetensorError

    from genobj.training import weights

    def full(*_: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "save_file", full)
    assert run(["train", "--out", "run", "train.steps=1"]) == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err


def test_tensorboard_that_is_missing_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run([*TRAIN, "log.tensorboard=true"]) == 2
    assert "pip install 'genobj[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_part_that_is_no_part_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from genobj.parts import OBJECTIVES

    OBJECTIVES.register("stranger")(dict)  # type: ignore[type-var]
    try:
        assert run(["show", "--heads", "v", "--objectives", "stranger"]) == 2
        assert "objective 'stranger' is dict, which derives from no class of genobj" in capsys.readouterr().err
    finally:
        OBJECTIVES.unregister("stranger")


def test_every_family_has_a_place() -> None:
    assert PLACES.keys() == FAMILIES.keys()
    assert all(isinstance(registry, Registry) for registry in FAMILIES.values())
