"""The list of contents: every part genobj ships, by family. Importing this file imports nothing heavy."""

from typing import TYPE_CHECKING, Any

from genobj.registry import Registry

if TYPE_CHECKING:
    from genobj.backbones.base import Backbone
    from genobj.data.base import Data
    from genobj.distances.base import Distance
    from genobj.guidance.base import Guidance
    from genobj.heads.base import Head
    from genobj.metrics.base import Metric
    from genobj.metrics.features import Extractor
    from genobj.objectives.base import Objective
    from genobj.paths.base import Path
    from genobj.samplers.base import Sampler
    from genobj.samplers.grids import Grid
    from genobj.schedules import Schedule
    from genobj.times.base import Times
    from genobj.times.pairs import Pairs

OBJECTIVES: "Registry[Objective]" = Registry(
    "objective",
    "objectives",
    {
        "fm": "genobj.objectives.flow_matching:FlowMatching",
        "cm": "genobj.objectives.consistency:Consistency",
        "mf": "genobj.objectives.mean_flow:MeanFlow",
        "imf": "genobj.objectives.improved_mean_flow:ImprovedMeanFlow",
        "sc": "genobj.objectives.shortcut:Shortcut",
        "ect": "genobj.objectives.easy_consistency:EasyConsistency",
        "ict": "genobj.objectives.improved_consistency:ImprovedConsistency",
        "alphaflow": "genobj.objectives.alpha_flow:AlphaFlow",
        "soflow": "genobj.objectives.solution_flow:SolutionFlow",
        "split": "genobj.objectives.split_mean_flow:SplitMeanFlow",
        "ct": "genobj.objectives.consistency_training:ConsistencyTraining",
        "imm": "genobj.objectives.moment_matching:MomentMatching",
        "rcgm": "genobj.objectives.any_step:AnyStep",
        "twinflow": "genobj.objectives.twin_flow:TwinFlow",
        "twin": "genobj.objectives.whole_twin_flow:WholeTwinFlow",
        "ucgm": "genobj.objectives.unified:Unified",
        "facm": "genobj.objectives.flow_anchored:FlowAnchored",
        "gan": "genobj.objectives.adversarial:Adversarial",
        "dmd": "genobj.objectives.distribution_matching:DistributionMatching",
        "scm": "genobj.objectives.continuous:ContinuousConsistency",
    },
    titles={
        "fm": "flow matching",
        "cm": "consistency",
        "mf": "MeanFlow",
        "imf": "improved MeanFlow",
        "sc": "Shortcut",
        "ect": "easy consistency tuning",
        "ict": "improved consistency training",
        "scm": "continuous-time consistency (sCM)",
        "alphaflow": "AlphaFlow",
        "soflow": "SoFlow",
        "split": "SplitMeanFlow",
        "ct": "consistency training",
        "imm": "inductive moment matching",
        "rcgm": "RCGM",
        "twinflow": "TwinFlow",
        "twin": "TwinFlow on the whole batch",
        "ucgm": "UCGM",
        "facm": "flow-anchored consistency",
        "gan": "adversarial",
        "dmd": "distribution matching",
    },
)

HEADS: "Registry[Head]" = Registry(
    "head",
    "heads",
    {
        "projection": "genobj.heads.projection:Projection",
        "log_variance": "genobj.heads.log_variance:LogVariance",
        "critic": "genobj.heads.critic:Critic",
    },
)

BACKBONES: "Registry[Backbone]" = Registry(
    "backbone",
    "backbones",
    {
        "mlp": "genobj.backbones.mlp:MLP",
        "unet": "genobj.backbones.unet:UNet",
        "dit": "genobj.backbones.dit:DiT",
    },
)

PATHS: "Registry[Path]" = Registry(
    "path",
    "paths",
    {
        "linear": "genobj.paths.linear:Linear",
        "trig": "genobj.paths.trig:Trig",
        "vp": "genobj.paths.vp:VP",
        "edm": "genobj.paths.edm:EDM",
        "random": "genobj.paths.random:Random",
    },
)

TIMES: "Registry[Times]" = Registry(
    "time law",
    "times",
    {
        "uniform": "genobj.times.uniform:Uniform",
        "beta": "genobj.times.beta:Beta",
        "logit_normal": "genobj.times.logit_normal:LogitNormal",
        "kumaraswamy": "genobj.times.kumaraswamy:Kumaraswamy",
        "karras_levels": "genobj.times.karras_levels:KarrasLevels",
        "arctan": "genobj.times.arctan:Arctan",
    },
)

PAIRS: "Registry[Pairs]" = Registry(
    "pair law",
    "pairs",
    {
        "zero": "genobj.times.pairs:Zero",
        "equal": "genobj.times.pairs:Equal",
        "below": "genobj.times.pairs:Below",
        "sorted": "genobj.times.pairs:Sorted",
        "capped": "genobj.times.pairs:Capped",
        "dyadic": "genobj.times.dyadic:Dyadic",
        "grouped": "genobj.times.grouped:Grouped",
        "twin": "genobj.times.twin:Twin",
    },
)

DISTANCES: "Registry[Distance]" = Registry(
    "distance",
    "distances",
    {
        "mse": "genobj.distances.mse:MSE",
        "adaptive": "genobj.distances.adaptive:Adaptive",
        "pseudo_huber": "genobj.distances.pseudo_huber:PseudoHuber",
        "barron": "genobj.distances.barron:Barron",
        "cosine": "genobj.distances.cosine:Cosine",
        "sum": "genobj.distances.sum:Sum",
    },
)

GUIDANCE: "Registry[Guidance]" = Registry(
    "guidance",
    "guidance",
    {
        "none": "genobj.guidance.none:NoGuidance",
        "self": "genobj.guidance.own:SelfGuidance",
        "frozen": "genobj.guidance.frozen:FrozenGuidance",
        "mean_flow": "genobj.guidance.mean_flow:MeanFlowGuidance",
        "fed": "genobj.guidance.fed:FedGuidance",
        "enhanced": "genobj.guidance.enhanced:EnhancedGuidance",
    },
)

SCHEDULES: "Registry[Schedule]" = Registry(
    "schedule",
    "schedules",
    {
        "constant": "genobj.schedules:Constant",
        "linear": "genobj.schedules:Straight",
        "cosine": "genobj.schedules:Cosine",
        "exponential": "genobj.schedules:Exponential",
        "sigmoid": "genobj.schedules:Sigmoid",
        "stairs": "genobj.schedules:Stairs",
        "doubling": "genobj.schedules:Doubling",
        "root": "genobj.schedules:Root",
    },
)

SAMPLERS: "Registry[Sampler]" = Registry(
    "sampler",
    "samplers",
    {
        "euler": "genobj.samplers.euler:Euler",
        "heun": "genobj.samplers.heun:Heun",
        "midpoint": "genobj.samplers.midpoint:Midpoint",
        "flow_map": "genobj.samplers.flow_map:FlowMap",
        "restart": "genobj.samplers.restart:Restart",
        "unified": "genobj.samplers.unified:Unified",
        "edm": "genobj.samplers.edm:EDMHeun",
        "ode": "genobj.samplers.ode:Ode",
    },
    presets="genobj.samplers.presets:TABLE",
)

GRIDS: "Registry[Grid]" = Registry(
    "time grid",
    "grids",
    {
        "uniform": "genobj.samplers.grids:Uniform",
        "karras": "genobj.samplers.grids:Karras",
        "kumaraswamy": "genobj.samplers.grids:Kumaraswamy",
        "levels": "genobj.samplers.grids:Levels",
        "shifted": "genobj.samplers.grids:Shifted",
        "listed": "genobj.samplers.grids:Listed",
    },
)

DATA: "Registry[Data]" = Registry(
    "data set",
    "data",
    {
        "moons": "genobj.data.toys:Moons",
        "gaussians": "genobj.data.toys:Gaussians",
        "checkerboard": "genobj.data.toys:Checkerboard",
        "swiss_roll": "genobj.data.toys:SwissRoll",
        "circles": "genobj.data.toys:Circles",
        "pinwheel": "genobj.data.toys:Pinwheel",
        "digits": "genobj.data.digits:Digits",
        "zip": "genobj.data.archives:Zip",
        "folder": "genobj.data.folders:FolderImages",
        "imagenet": "genobj.data.folders:ImageNet",
        "cifar10": "genobj.data.standard:CIFAR10",
        "mnist": "genobj.data.standard:MNIST",
        "fashion_mnist": "genobj.data.standard:FashionMNIST",
        "latents": "genobj.data.latents:Latents",
        "normal": "genobj.data.normal:Normal",
    },
)

METRICS: "Registry[Metric]" = Registry(
    "metric",
    "metrics",
    {
        "mmd": "genobj.metrics.mmd:MMD",
        "energy": "genobj.metrics.energy:Energy",
        "sliced_w2": "genobj.metrics.wasserstein:SlicedWasserstein",
        "w2": "genobj.metrics.wasserstein:Wasserstein",
        "fd": "genobj.metrics.frechet:Frechet",
        "fid": "genobj.metrics.frechet:FID",
        "sfid": "genobj.metrics.frechet:SpatialFID",
        "is": "genobj.metrics.inception_score:InceptionScore",
        "kid": "genobj.metrics.kid:KID",
        "prdc": "genobj.metrics.prdc:PRDC",
        "accuracy": "genobj.metrics.accuracy:Accuracy",
    },
)

EXTRACTORS: "Registry[Extractor]" = Registry(
    "extractor",
    "extractors",
    {
        "digits": "genobj.metrics.extractor:DigitsExtractor",
        "inception": "genobj.metrics.inception:Inception",
        "trained": "genobj.metrics.trained:Trained",
    },
)

FAMILIES: "dict[str, Registry[Any]]" = {
    registry.plural: registry
    for registry in (
        OBJECTIVES,
        HEADS,
        BACKBONES,
        PATHS,
        TIMES,
        PAIRS,
        DISTANCES,
        GUIDANCE,
        SCHEDULES,
        SAMPLERS,
        GRIDS,
        DATA,
        METRICS,
        EXTRACTORS,
    )
}
