"""Numbers drawn from records, by which the paper's claims about CIFAR-10 and cost are judged.

Every function takes what there is: runs that are missing, or stale, leave numbers out.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from lbp import experiments, paper
from lbp.config import RunConfig
from lbp.cost import Case, Comparison
from lbp.paper import PaperCurve
from lbp.record import Record
from lbp.reproduce import Results
from lbp.selection import final_accuracy

# --- of one run


def epoch_to_epoch_sd(record: Record) -> float:
    """Return the standard deviation of test accuracy from epoch to epoch, in points.

    Over the last half of the run; half the mean squared difference of neighbours, so that a slow
    rise does not count as variance. NaN for a diverged run.
    """
    if record.outcome == "diverged":
        return math.nan
    accuracy = np.array(record.test_accuracy)
    steps = np.diff(accuracy[len(accuracy) // 2 :])
    return float(np.sqrt(np.mean(steps**2) / 2))


def early_accuracy(record: Record, steps: int) -> float:
    """Return the test accuracy in percent, averaged over the epochs within the first `steps`.

    A diverged run counts with its last accuracy, that of guessing, for the epochs it lacks.
    """
    accuracy = np.array(record.test_accuracy)
    epochs = max(1, min(record.config.epochs, steps // record.config.steps_per_epoch))
    return float(np.pad(accuracy, (0, max(0, epochs - len(accuracy))), "edge")[:epochs].mean())


def distance(record: Record, curve: PaperCurve) -> float:
    """Return the mean absolute distance to a curve of the paper, in points of test accuracy.

    Taken where the curve was digitised, at equal numbers of SGD steps, as far as the run goes; NaN
    if it ends before the first of these places.
    """
    paper_steps = np.array(curve.epochs) * RunConfig().steps_per_epoch
    per_epoch = record.config.steps_per_epoch
    mine = np.array(record.curve("epoch")) * per_epoch
    within = (paper_steps >= per_epoch) & (paper_steps <= record.config.epochs * per_epoch)
    if not within.any():
        return math.nan
    accuracy = np.interp(paper_steps[within], mine, record.test_accuracy)
    return float(np.abs(accuracy - np.array(curve.mid)[within]).mean())


# --- of several seeds


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % confidence interval, from Student's t distribution."""

    mean: float
    half: float  # half of the interval's width; NaN for a single seed
    seeds: int

    def __str__(self) -> str:
        if self.seeds == 1:
            return f"{self.mean:.2f} (one seed)"
        return f"{self.mean:.2f} ± {self.half:.2f} ({self.seeds} seeds)"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of one value or more, one for each seed, and its confidence interval."""
    n = len(values)
    if n == 1:
        return Interval(values[0], math.nan, 1)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(float(np.mean(values)), half, n)


def over_seeds(
    results: Results, measure: Callable[[Record], float]
) -> dict[tuple[str, str], Interval]:
    """Return a measure's interval for each activation and rule of a figure's long runs."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in results.usable:
        name = (record.config.activation, record.config.rule)
        found.setdefault(name, []).append(measure(record))
    return {name: interval(values) for name, values in found.items()}


def _means(results: Results, measure: Callable[[Record], float]) -> dict[tuple[str, str], float]:
    return {name: found.mean for name, found in over_seeds(results, measure).items()}


def _distance_to_shown(record: Record) -> float:
    """Return a long run's distance to its curve in Figure 2 or 3."""
    return distance(record, paper.long_curves()[experiments.label(record.config)])


def _ratio(first: float, second: float) -> float:
    return first / second if second else math.inf


def _known(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers without those that are not defined, as of runs too short to compare."""
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


# --- of a figure

# The steps before which the paper's own curves of Figure 2 have Backprop ahead, about 30 epochs.
FIG2_EARLY_STEPS = 12_500
FIG4_EARLY_STEPS = 20 * RunConfig().steps_per_epoch


def fig2(results: Results) -> dict[str, float]:
    """Return Figure 2's numbers, means over the seeds; none while a rule has no usable run.

    - early_lead: bp minus linear over the first 12,500 steps, in points;
    - bp_final, linear_final: test accuracy in percent at the end;
    - final_gap: linear minus bp, in points;
    - bp_sd, linear_sd: standard deviation from epoch to epoch, in points;
    - sd_ratio: bp's over linear's;
    - bp_distance, linear_distance: to the paper's curves, in points.
    """
    names = bp, linear = ("tanh", "bp"), ("tanh", "linear")
    final = _means(results, final_accuracy)
    if not final.keys() >= set(names):
        return {}
    early = _means(results, lambda record: early_accuracy(record, FIG2_EARLY_STEPS))
    sd = _means(results, epoch_to_epoch_sd)
    curves = paper.curves(2)
    away = _means(
        results, lambda record: distance(record, curves[experiments.label(record.config)])
    )
    return {
        "early_lead": early[bp] - early[linear],
        "bp_final": final[bp],
        "linear_final": final[linear],
        "final_gap": final[linear] - final[bp],
        "bp_sd": sd[bp],
        "linear_sd": sd[linear],
        "sd_ratio": _ratio(sd[bp], sd[linear]),
    } | _known({"bp_distance": away[bp], "linear_distance": away[linear]})


def fig3(results: Results) -> dict[str, float]:
    """Return Figure 3's numbers, means over the seeds; none while a combination has no usable run.

    - tanh_linear_best, relu_bp_best, relu_linear_best: the best epoch's test accuracy in percent;
    - best_gap: relu bp's minus tanh linear's, in points;
    - tanh_linear_sd, relu_bp_sd, relu_linear_sd: standard deviation from epoch to epoch, in points;
    - sd_ratio: relu bp's over tanh linear's; relu_sd_ratio: over relu linear's;
    - relu_bp_distance, relu_linear_distance, tanh_linear_distance: to the paper's curves, in
      points; the paper shows the last one in Figure 2.
    """
    names = tanh, bp, linear = ("tanh", "linear"), ("relu", "bp"), ("relu", "linear")
    best = _means(results, lambda record: max(record.test_accuracy))
    if not best.keys() >= set(names):
        return {}
    sd = _means(results, epoch_to_epoch_sd)
    curves = paper.curves(2) | paper.curves(3, "left") | paper.curves(3, "right")
    away = _means(
        results, lambda record: distance(record, curves[experiments.label(record.config)])
    )
    numbers = {"best_gap": best[bp] - best[tanh]}
    numbers |= {
        "sd_ratio": _ratio(sd[bp], sd[tanh]),
        "relu_sd_ratio": _ratio(sd[bp], sd[linear]),
    }
    for kind, values in (("best", best), ("sd", sd), ("distance", away)):
        numbers |= _known({f"{'_'.join(name)}_{kind}": values[name] for name in names})
    return numbers


def by_pair(records: Iterable[Record]) -> dict[tuple[float, float, str], Record]:
    """Return the runs of a grid by learning rate, weight decay and rule."""
    return {(r.config.lr, r.config.l2, r.config.rule): r for r in records}


def fig4(results: Results) -> dict[str, float]:
    """Return Figure 4's numbers; those whose runs are not all there are left out.

    - early_gap_min: linear minus bp, mean over the first 20 epochs' steps, in points; the least of
      all pairs of the paper's two panels;
    - weight_decay_gain: at 1e-4, linear's final accuracy with 0.1 minus the best of those with
      less, in points;
    - distance: to the paper's curves, mean over the runs of its two panels, in points.
    """
    runs = by_pair(results.usable)
    shown = {p for p in by_pair_configs(results) if p[0] in paper.SHOWN_RATES}
    if not shown <= runs.keys():
        return {}
    early = {pair: early_accuracy(runs[pair], FIG4_EARLY_STEPS) for pair in shown}
    gaps = [early[lr, l2, "linear"] - early[lr, l2, "bp"] for lr, l2, rule in shown if rule == "bp"]
    final = {l2: final_accuracy(runs[lr, l2, rule]) for lr, l2, rule in shown
             if (lr, rule) == (1e-4, "linear")}  # fmt: skip
    away = [distance(runs[lr, l2, rule], paper.sweep_curve(lr, l2, rule)) for lr, l2, rule in shown]
    largest = max(final)
    return {
        "early_gap_min": min(gaps),
        "weight_decay_gain": final[largest] - max(v for l2, v in final.items() if l2 < largest),
    } | _known({"distance": float(np.mean(away))})


def by_pair_configs(results: Results) -> dict[tuple[float, float, str], RunConfig]:
    """Return the grid that a figure's runs are to fill, by learning rate, weight decay and rule."""
    return {(run.lr, run.l2, run.rule): run for run in results.runs.values()}


def recipe_distances(results: Results) -> dict[str, dict[str, float]]:
    """Return each recipe's distances to Figure 4's curves, in points, the nearest recipe first.

    Returns:
        By recipe, then by run ("bp, lr 0.0001, l2 0.1"), and "mean" over the runs; recipes whose
        runs are not all usable are left out.
    """
    stale = results.stale
    found: dict[str, dict[str, float]] = {}
    for name in experiments.RECIPES:
        labels = [label for label in results.runs if label.startswith(f"{name}: ")]
        if any(label not in results.records or label in stale for label in labels):
            continue
        rows = {}
        for label in labels:
            record = results.records[label]
            config = record.config
            curve = paper.sweep_curve(config.lr, config.l2, config.rule)
            rows[label.removeprefix(f"{name}: ")] = distance(record, curve)
        found[name] = rows | {"mean": float(np.mean(list(rows.values())))}
    return dict(sorted(found.items(), key=lambda item: item[1]["mean"]))


def recipe(results: Results) -> dict[str, float]:
    """Return the mean distance of the nearest recipe, if every recipe has been run.

    - best_distance: in points.
    """
    found = recipe_distances(results)
    if len(found) < len(experiments.RECIPES):
        return {}
    return _known({"best_distance": next(iter(found.values()))["mean"]})


def larger_step(results: Results) -> dict[str, float]:
    """Return what is left of Linear Backprop's advantage when Backprop has its own best step.

    None of the numbers while a run is missing. Accuracies are final ones, in percent; the best is
    taken over the weight decays.

    - paper_rates_gap: best linear minus best bp over the paper's learning rates, up to 1e-3;
    - all_rates_gap: the same over all learning rates, up to 1e-1;
    - bp_best, linear_best, bp_best_lr, linear_best_lr: over all learning rates.
    """
    if results.missing or results.stale:
        return {}
    numbers: dict[str, float] = {}
    for name, highest in (("paper_rates_gap", 1e-3), ("all_rates_gap", math.inf)):
        best = {
            rule: max(
                (r for r in results.of(rule=rule) if r.config.lr <= highest), key=final_accuracy
            )
            for rule in experiments.RULES
        }
        numbers[name] = final_accuracy(best["linear"]) - final_accuracy(best["bp"])
    for rule, record in best.items():
        numbers |= {f"{rule}_best": final_accuracy(record), f"{rule}_best_lr": record.config.lr}
    return numbers


def precision(results: Results) -> dict[str, float]:
    """Return how far the curves of two precisions lie apart, against the noise of the seeds.

    None of the numbers while a run is missing.

    - difference: between the means over the seeds, averaged over epochs and rules, in points;
    - seed_sd: standard deviation over the seeds, averaged likewise, in points;
    - ratio: the difference over the standard error that the seeds alone give it.
    """
    if results.missing or results.stale:
        return {}
    differences, deviations, seeds = [], [], 0
    precisions = sorted({run.precision for run in results.runs.values()})
    for rule in experiments.RULES:
        curves = [
            np.array([r.test_accuracy for r in results.of(rule=rule, precision=name)])
            for name in precisions
        ]  # [seeds, epochs] each
        seeds = len(curves[0])
        first, second = curves
        differences.append(np.abs(first.mean(0) - second.mean(0)).mean())
        pooled = np.sqrt((first.var(0, ddof=1) + second.var(0, ddof=1)) / 2)
        deviations.append(pooled.mean())
    difference, sd = float(np.mean(differences)), float(np.mean(deviations))
    return {
        "difference": difference,
        "seed_sd": sd,
        "ratio": _ratio(difference, sd * math.sqrt(2 / seeds)),
    }


BY_FIGURE: Mapping[str, Callable[[Results], dict[str, float]]] = {
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "recipe": recipe,
    "larger-step": larger_step,
    "precision": precision,
}


# --- of cost


@dataclass(frozen=True)
class Ratio:
    """The median of a ratio over the rounds of a comparison, and its 95 % confidence interval.

    The interval is that of the order statistics, which assumes no distribution. With fewer than six
    rounds there is none: its ends are NaN.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.median:.3f}"
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def time_ratio(comparison: Comparison, arm: str = "linear") -> Ratio:
    """Return the time of one of `lbp.cost.ARMS` over that of Backprop, round by round."""
    from scipy.stats import quantile_test  # here: it takes a second, and most need it not

    ratios = np.divide(comparison.seconds[arm], comparison.seconds["bp"])
    median = float(np.median(ratios))
    interval = quantile_test(ratios, q=median, p=0.5).confidence_interval(0.95)
    return Ratio(median, float(interval.low), float(interval.high))


def kept_ratio(comparison: Comparison) -> float:
    """Return the bytes kept under Linear Backprop over those kept under Backprop."""
    return comparison.kept["linear"] / comparison.kept["bp"]


def slower(comparisons: Iterable[Comparison]) -> list[Case]:
    """Return the cases in which Linear Backprop is slower than Backprop beyond the noise.

    There its interval lies above one, and above the interval of Backprop against itself. With fewer
    than six rounds there is no interval, and no case is named.
    """

    def beyond_noise(comparison: Comparison) -> bool:
        noise = time_ratio(comparison, "bp again")
        return time_ratio(comparison).low > max(1.0, noise.high)

    return [comparison.case for comparison in comparisons if beyond_noise(comparison)]


def cost(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return the numbers of a scale; those whose cases are missing are left out.

    - step_time_ratio: a step's time, linear over bp, of VGG19 with tanh, eager or compiled,
      whichever favours the claim;
    - smallest_ratio, largest_ratio: the same of all cases;
    - kept_ratio_gelu, kept_ratio_silu: bytes kept, linear over bp, of VGG19, eager.
    """
    numbers = {}
    vgg19 = [c for c in comparisons if c.case.model == "vgg19"]
    tanh = [time_ratio(c).median for c in vgg19 if c.case.activation == "tanh"]
    if len(tanh) == 2:
        numbers["step_time_ratio"] = min(tanh)
    if comparisons:
        ratios = [time_ratio(c).median for c in comparisons]
        numbers |= {"smallest_ratio": min(ratios), "largest_ratio": max(ratios)}
    for c in vgg19:
        if c.case.mode == "eager" and c.case.activation in ("gelu", "silu"):
            numbers[f"kept_ratio_{c.case.activation}"] = kept_ratio(c)
    return numbers
