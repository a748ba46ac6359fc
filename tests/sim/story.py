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
    """List these faults with one of them a call or two earlier, or many steps."""
    return [
        (*faults[:n], replace(fault, nth=nth), *faults[n + 1 :])
        for n, fault in enumerate(faults)
        for nth in {fault.nth - 1, fault.nth - 2, *((fault.nth * 3 // 4, fault.nth // 2) if fault.nth > 8 else ())}
        if nth > 0
    ]


def tell(result: Result) -> str:
    """Give the story of a run that broke a promise."""
    plan = result.plan
    behind = f", a replica {plan.lag_s:g} s behind" if plan.lag_s else ""
    unmet = [each for each in map(str, plan.faults) if not any(each in line for line in result.story)]
    head = f"seed {plan.seed}: {plan.workers} workers, {len(plan.ops)} operations, {len(plan.faults)} faults{behind}"
    legend = (
        "(live-2-3: the second message of the live queue, received for the third time; AAA[12]: twelve bytes, all A)"
    )
    return "\n".join([head, legend, *result.story, *(f"did not strike: {each}" for each in unmet)])
