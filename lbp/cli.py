"""The command line: `lbp data`, `train`, `reproduce`, `status`, `results`, `cost` and `claims`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from lbp import archive, cifar10, cost_records, experiments, reproduce, runner
from lbp.config import RunConfig
from lbp.errors import LbpError
from lbp.record import Record
from lbp.store import Store


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise LbpError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 if it stopped before it was done, or 2 after a wrong input."""
    try:
        options = _parser().parse_args(arguments)
        status: int = options.command(options)
    except LbpError as error:
        print(f"lbp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lbp: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has gone
        sys.stderr.close()
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lbp", description="Linear Backprop: data, runs, figures and claims.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=run)
        return sub

    sub = command("data", _data, "Download CIFAR-10 (170 MB), verify it and say where it is.")
    _add_data(sub)
    sub = command("train", _train, "Train one run and add it to the store.")
    _add_config(sub)
    _add_training(sub)
    sub = command("reproduce", _reproduce, "Train the runs of a figure that the store lacks.")
    sub.add_argument("figure", help=", ".join((*experiments.FIGURES, reproduce.ALL)))
    sub.add_argument("--profile", default="recorded", help=", ".join(experiments.PROFILES))
    text = "runs at once (default: one for each GPU, or for each core)"
    sub.add_argument("--jobs", type=int, metavar="N", help=text)
    _add_training(sub)
    command("status", _status, "List each figure's runs: recorded, missing or stale, and times.")
    text = "Move recorded runs between machines."
    results = commands.add_parser("results", help=text, description=text)
    moves = results.add_subparsers(required=True, metavar="pack|add", parser_class=_Parser)
    text = "Write every record into a new zip file."
    sub = moves.add_parser("pack", help=text, description=text)
    sub.add_argument("file", type=Path)
    sub.set_defaults(command=_pack)
    text = "Check the records of a zip file and add them; what is recorded here already stays."
    sub = moves.add_parser("add", help=text, description=text)
    sub.add_argument("file", type=Path)
    sub.set_defaults(command=_add)
    text = "Time a training step under both rules and count the bytes it keeps; records both."
    sub = command("cost", _cost, text)
    sub.add_argument("--profile", default="recorded", help=", ".join(experiments.PROFILES))
    command("claims", _claims, "Judge the paper's claims; computes Figure 1 (some seconds).")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    text = "folder of CIFAR-10 (default: $LBP_DATA, else data/ of the project)"
    parser.add_argument("--data", metavar="DIR", help=text)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, or several: cuda:0,cuda:1"
    )
    parser.add_argument("--minutes", type=float, help="stop between epochs when they are used up")
    _add_data(parser)


def _add_config(parser: argparse.ArgumentParser) -> None:
    hints = get_type_hints(RunConfig)
    for field in fields(RunConfig):
        kind, default = hints[field.name], field.default
        flag = f"--{field.name.replace('_', '-')}"
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag, action=action, default=default, help=f"default: {default}")
        elif get_origin(kind) is Literal:
            text = f"{', '.join(get_args(kind))} (default: {default})"
            parser.add_argument(flag, default=default, metavar="NAME", help=text)
        else:
            text = f"default: {default:g}"
            parser.add_argument(flag, type=kind, default=default, metavar="N", help=text)


def _data(options: argparse.Namespace) -> int:
    root = cifar10.data_root(options.data)
    cifar10.download(root)
    print(f"CIFAR-10 is whole, in {cifar10.folder(root)}")
    return 0


def _train(options: argparse.Namespace) -> int:
    config = RunConfig(**{field.name: getattr(options, field.name) for field in fields(RunConfig)})
    devices = runner.choose_devices(options.device, config.precision)
    store = Store()
    failures = reproduce.train_missing(
        [config], devices[:1], minutes=options.minutes, data=options.data, store=store
    )
    if failures:
        raise LbpError(failures[0].reason)
    record = store.get(config)
    if record is None:
        print(f"{config}: not finished; the same command goes on from its checkpoint")
        return 1
    print(f"{config}: {_outcome(record)}; {store.path(config)}")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    found = reproduce.reproduce(
        options.figure,
        options.profile,
        device=options.device,
        jobs=options.jobs,
        minutes=options.minutes,
        data=options.data,
    )
    for results in found:
        print(f"{results.figure}, {results.scale} ({experiments.SCALE_NOTES[results.scale]})")
        for label, config in results.runs.items():
            record = results.records.get(label)
            outcome = _outcome(record) if record else "missing"
            stale = ", stale: by other numerical code" if label in results.stale else ""
            print(f"  {label}: {outcome}{stale}\n    {config}")
    for failure in found[-1].failures:
        print(f"failed: {failure.config}: {failure.reason}")
    return 0 if all(results.complete for results in found) else 1


def _status(options: argparse.Namespace) -> int:
    print("fig1: computed afresh each time, in some seconds; nothing is recorded")
    for figure in experiments.FIGURES:
        for scale in ("paper", "cpu"):
            results = reproduce.recorded(figure, scale)
            print(f"{figure}, {scale} ({experiments.SCALE_NOTES[scale]})")
            for label, config in results.runs.items():
                print(f"  {label}: {results.state(label)}\n    {config}")
    print(f"store: {Store().folder}; to compute a stale run again, delete its record")
    return 0


def _pack(options: argparse.Namespace) -> int:
    number = archive.pack(Store(), options.file)
    print(f"packed {number} {'record' if number == 1 else 'records'} into {options.file}")
    return 0


def _add(options: argparse.Namespace) -> int:
    merged = archive.merge(archive.unpack(options.file), Store())
    print(f"{len(merged.added)} added, {len(merged.same)} here already, to {Store().folder}")
    for record in merged.different:
        path = Store().path(record.config)
        print(f"another result is recorded here and stays: {record.config}\n  {path}")
    return 1 if merged.different else 0


def _cost(options: argparse.Namespace) -> int:
    for scale, comparisons in cost_records.measure(options.profile).items():
        if options.profile == "recorded":
            print(f"{scale}:" if comparisons else f"{scale}: nothing is recorded")
            for comparison in comparisons:
                print(f"  {cost_records.describe(comparison)}")
        elif scale != "smoke":
            print(f"{len(comparisons)} comparisons are recorded in {cost_records.path(scale)}")
    return 0


def _claims(options: argparse.Namespace) -> int:
    # Here, so that a machine that only trains needs no more packages than PyTorch's and tqdm.
    from lbp import claims

    for verdict in claims.verdicts():
        claim = verdict.claim
        print(f"{claim.id}: {verdict.word}")
        print(f"  {claim.statement} (section {claim.section})")
        print(f"  paper: {claim.paper}; found: {verdict.found}; test: {claim.tested}")
    return 0


def _outcome(record: Record) -> str:
    if record.outcome == "diverged":
        return f"diverged in epoch {len(record.epochs)}"
    return f"test accuracy {record.test_accuracy[-1]:.1f} % after {len(record.epochs)} epochs"
