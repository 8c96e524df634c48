"""Adaptive Runge-Kutta methods: integrate dy/dt = f(t, y) to a tolerance, with as many evaluations as that takes."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Method = Literal["rk45", "dop853", "dopri5"]
"""scipy's Dormand-Prince 5(4) and 8(5, 3), on the CPU between evaluations; torchdiffeq's 5(4), where the state is."""
FIRST = 0.01
"""torchdiffeq's first step, as a share of the way."""
Slope = Callable[[float, Tensor], Tensor]
"""f(t, y), shaped like y."""


def integrate(
    f: Slope, y: Tensor, t: float, r: float, *, method: Method, rtol: float, atol: float, limit: int
) -> Tensor:
    """y at r from y at t, in float64; the error of a step is measured over all of y at once.

    limit: evaluations of f after which to give up. ValueError if they do not suffice, if a step becomes too small (as
    it does where f is not finite), or if torchdiffeq is missing.
    """
    asked = 0

    def slope(time: float, state: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        if asked > limit:
            raise ValueError(f"the adaptive solver is at t = {time:.3g} after {limit} evaluations: {_ADVICE}")
        return f(time, state)

    return (_torch if method == "dopri5" else _scipy)(slope, y.double(), t, r, method, rtol, atol)


_ADVICE = "type larger rtol and atol, or a larger limit"


def _scipy(f: Slope, y: Tensor, t: float, r: float, method: str, rtol: float, atol: float) -> Tensor:
    from scipy.integrate import solve_ivp

    def slope(time: float, flat: "np.ndarray") -> "np.ndarray":
        return f(float(time), torch.from_numpy(flat).to(y.device).view_as(y)).cpu().numpy().ravel()

    start = y.cpu().numpy().ravel()
    with np.errstate(invalid="ignore"):
        found = solve_ivp(slope, (t, r), start, method=method.upper(), t_eval=[r], rtol=rtol, atol=atol)
    if not found.success:
        raise ValueError(f"the adaptive solver stopped between t = {t:g} and {r:g} ({found.message}): {_ADVICE}")
    return torch.from_numpy(np.ascontiguousarray(found.y[:, -1])).to(y.device).view_as(y)


def _torch(f: Slope, y: Tensor, t: float, r: float, method: str, rtol: float, atol: float) -> Tensor:
    try:
        from torchdiffeq import odeint
    except (ImportError, RuntimeError, OSError):
        raise ValueError("method=dopri5 needs torchdiffeq; type pip install 'genobj[ode]', or method=rk45") from None
    times = torch.tensor([t, r], dtype=torch.float64, device=y.device)
    options = {"step_t": times[1:], "first_step": FIRST * abs(t - r)}  # else it asks beyond r, where nobody answers
    try:
        found = odeint(
            lambda time, state: f(time.item(), state),
            y,
            times,
            rtol=rtol,
            atol=atol,
            method=method,
            options=options,
        )
    except AssertionError as error:
        if "underflow" not in str(error):
            raise
        raise ValueError(f"the adaptive solver stopped between t = {t:g} and {r:g} ({error}): {_ADVICE}") from None
    assert isinstance(found, Tensor)
    return found[-1]
