"""Gaussian data has an exact velocity and an exact flow map: fed as the network, every objective is at its optimum.

The residual prediction - target vanishes with the exact derivative (jvp) and falls like step^2 with central
differences. Run it to see that a formula means what its paper says: python examples/exact_gaussian.py
"""

import torch

from genobj.derivatives import Derivative
from genobj.objectives.base import Regression
from genobj.objectives.consistency import Consistency
from genobj.objectives.flow_matching import FlowMatching
from genobj.passes import StepPasses
from genobj.paths.trig import Trig
from genobj.samplers.flow_map import FlowMap
from genobj.testing import GaussianFlow
from genobj.types import Draw, Point

COUNT = 512


def residual(objective: Regression, flow: GaussianFlow) -> float:
    """Largest |prediction - target| where v_t is the marginal velocity, in float64."""
    random = torch.Generator().manual_seed(0)
    t = torch.rand(COUNT, generator=random, dtype=torch.float64) * 0.96 + 0.02
    x_t = torch.randn(COUNT, 2, generator=random, dtype=torch.float64) * flow.scale(t)[:, None]
    v = flow.velocity(x_t, t)
    draw = Draw(x_t, x_t, t, torch.zeros_like(t), x_t, v, v)  # objectives look at x_t and v_t only
    passes = StepPasses({"online": flow}, COUNT)
    prediction = passes.main(Point(draw.x_t, draw.t, draw.r))[objective.head]
    return float((prediction - objective.target(draw, passes)).abs().max())


def main() -> None:
    for flow in (GaussianFlow(), GaussianFlow(Trig())):
        print(type(flow.path).__name__)
        print(f"  fm                    {residual(FlowMatching(), flow):.1e}")
        print(f"  cm, jvp               {residual(Consistency(derivative=Derivative(method='jvp')), flow):.1e}")
        for step in (0.02, 0.01, 0.005):
            value = residual(Consistency(derivative=Derivative(step=step)), flow)
            print(f"  cm, central, {step:<5}    {value:.1e}")
    z = torch.randn(COUNT, 2, dtype=torch.float64)
    one, five = (FlowMap(steps=steps, head="w")(GaussianFlow(), z).samples for steps in (1, 5))
    print(f"one jump against five: {float((one - five).abs().max()):.1e}; both against std x z: ", end="")
    print(f"{float((one - 0.5 * z).abs().max()):.1e}")


if __name__ == "__main__":
    main()
