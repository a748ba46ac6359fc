"""A failing run, made short and told: what it does not need is dropped until nothing more can go."""

from __future__ import annotations

from dataclasses import replace

from sim.plan import Fault, Plan
from sim.simulation import Result, run


def shrink(result: Result, tries: int = 400) -> Result:
    """Drop workers, operations and faults for as long as the same promise stays broken."""
    rule = result.violations[0].partition(":")[0]
    best = result
    again = True
    while again and tries > 0:
        again = False
        for smaller in _smaller(best.plan):
            tries -= 1
            found = run(smaller)
            if any(each.startswith(rule) for each in found.violations):
                best, again = found, True
                break
            if tries <= 0:
                break
    return best


def _smaller(plan: Plan) -> list[Plan]:
    """List the plans that lack one thing of this one; where a call falls away, a fault may have to strike earlier."""
    plans = [replace(plan, faults=plan.faults[:n] + plan.faults[n + 1 :]) for n in range(len(plan.faults))]
    fewer = [plan.ops[:n] + plan.ops[n + 1 :] for n in range(len(plan.ops))]
    plans += [replace(plan, ops=ops) for ops in fewer]
    if plan.workers > 1:
        plans.append(replace(plan, workers=plan.workers - 1))
    plans += [replace(plan, ops=ops, faults=faults) for ops in fewer for faults in _earlier(plan.faults)]
    if plan.lag_s:
        plans.append(replace(plan, lag_s=0.0))
    if plan.shuffle:
        plans.append(replace(plan, shuffle=False))
    for n, op in enumerate(plan.ops):
        if len(op.events_s) > 1:
            plans.append(replace(plan, ops=(*plan.ops[:n], replace(op, events_s=op.events_s[:1]), *plan.ops[n + 1 :])))
    return plans


def _earlier(faults: tuple[Fault, ...]) -> list[tuple[Fault, ...]]:
    """List these faults with one of them a call or two earlier."""
    return [
        (*faults[:n], replace(fault, nth=fault.nth - by), *faults[n + 1 :])
        for n, fault in enumerate(faults)
        for by in (1, 2)
        if fault.nth > by
    ]


def tell(result: Result) -> str:
    """Give the story of a run that broke a promise."""
    plan = result.plan
    head = f"seed {plan.seed}: {plan.workers} workers, {len(plan.ops)} operations, {len(plan.faults)} faults"
    return "\n".join([head, *map(str, plan.ops), *map(str, plan.faults), *result.story, *result.violations])
