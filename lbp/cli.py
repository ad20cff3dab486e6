"""The command line: `lbp data`, `lbp train`, `lbp reproduce` and so on.

It needs more than the library does; a command whose packages are missing says so in one line.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO, get_args, get_origin, get_type_hints

from lbp.errors import LbpError, MissingExtra, check_choice

# Under which extra the packages come that not every command needs.
_EXTRAS = dict.fromkeys(("IPython", "markdown_it", "myst_nb", "scipy", "seaborn", "yaml"), "book")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise LbpError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 if it stopped before it was done, or 2 after a wrong input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        options, unknown = _parser().parse_known_args(arguments)
        if unknown:  # reported by the command's own parser, whose help names what it has
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        if options.project is not None:
            if not options.project:
                raise LbpError("--project is empty: give the folder of a clone")
            os.environ["LBP_PROJECT"] = options.project
        status: int = options.command(options)
        if sys.stdout is not None:  # it is None where standard output is closed
            sys.stdout.flush()
    except LbpError as error:
        print(f"lbp: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = MissingExtra(
            f"this command needs {error.name}: pip install '.[{_EXTRAS[error.name]}]' in a clone"
        )
        print(f"lbp: {extra}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lbp: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has gone
        _close(sys.stdout)
        return 0
    except OSError as error:  # a full disk behind the output, or no folder for temporary files
        print(f"lbp: {error.strerror or error}", file=sys.stderr)
        _close(sys.stdout)
        return 2
    return status


def _close(stream: TextIO) -> None:
    """Let Python not try to write what is left at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lbp", description="Linear Backprop: data, runs, figures and claims.")
    text = "clone of the project to work in (default: $LBP_PROJECT, else the one around lbp or you)"
    parser.add_argument("--project", metavar="DIR", help=text)
    parser.add_argument("--version", action="version", version=f"lbp {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=run, parser=sub)
        return sub

    sub = command("data", _data, "Download CIFAR-10 (170 MB), verify it and say where it is.")
    text = "cifar10 or cifar100 (default: cifar10)"
    sub.add_argument("--dataset", default="cifar10", metavar="NAME", help=text)
    _add_data(sub)
    sub = command("train", _train, "Train one run; its record grows in the store.")
    sub.add_argument("--epochs", type=int, default=100, metavar="N", help="default: 100")
    _add_config(sub)
    _add_training(sub, "auto, cpu, cuda or cuda:1")
    sub = command("reproduce", _reproduce, "Train the runs of an experiment that are missing.")
    sub.add_argument("experiment", help="its name, as `lbp status` lists it, or all")
    text = "smoke, narrow or paper (default: recorded, which trains nothing)"
    sub.add_argument("--profile", default="recorded", help=text)
    sub.add_argument("--epochs", type=int, metavar="N", help="train no run further than this epoch")
    text = "runs at once (default: one for each GPU, or for each core)"
    sub.add_argument("--jobs", type=int, metavar="N", help=text)
    text = "train into data/reruns/NAME, beside the records of the book"
    sub.add_argument("--rerun", metavar="NAME", help=text)
    _add_training(sub, "auto, cpu, cuda, cuda:1, or several: cuda:0,cuda:1")
    sub = command("status", _status, "List the experiments and how far their runs are.")
    sub.add_argument("experiment", nargs="?", help="list each of its runs")
    text = "Move recorded runs between machines, and check readers' reruns."
    results = commands.add_parser("results", help=text, description=text)
    moves = results.add_subparsers(
        required=True, metavar="pack|add|rerun|check", parser_class=_Parser
    )
    text = "Write every record into a new zip file."
    sub = moves.add_parser("pack", help=text, description=text)
    sub.add_argument("file", type=Path)
    sub.set_defaults(command=_pack, parser=sub)
    text = "Check the records of a zip file and add those that are new or longer."
    sub = moves.add_parser("add", help=text, description=text)
    sub.add_argument("file", type=Path)
    text = "take longer records that differ from those here in the epochs that both have"
    sub.add_argument("--replace", action="store_true", help=text)
    sub.set_defaults(command=_add, parser=sub)
    text = "Check the records of a zip file and put them into data/reruns/NAME."
    sub = moves.add_parser("rerun", help=text, description=text)
    sub.add_argument("file", type=Path)
    sub.add_argument("name", help="of the reader or the reader's device, such as ada-m2")
    sub.set_defaults(command=_rerun, parser=sub)
    text = "Check reruns: their seals and code, and whether they agree with the book's records."
    sub = moves.add_parser("check", help=text, description=text)
    text = "a zip file, a record or a folder of records (default: data/reruns)"
    sub.add_argument("path", nargs="*", type=Path, help=text)
    sub.set_defaults(command=_check, parser=sub)
    text = "Show what a training step takes under both rules, in time and memory, or measure it."
    sub = command("cost", _cost, text)
    text = (
        "recorded (the default) shows, smoke tries, paper measures what is missing and records it"
    )
    sub.add_argument("--profile", default="recorded", help=text)
    sub.add_argument("--device", default="auto", help="to measure on: auto, cpu or cuda")
    text = "Train on the task Higgs to tau tau, from files of events, label and features in a line."
    sub = command("higgs", _higgs, text)
    sub.add_argument("train", type=Path, help="events to train on")
    sub.add_argument("test", type=Path, help="events to judge by")
    sub.add_argument("--rule", default="bp", metavar="NAME", help="default: bp")
    text = "hinges of an APL unit, 0 for ReLU (default: 2)"
    sub.add_argument("--hinges", type=int, default=2, metavar="N", help=text)
    sub.add_argument("--epochs", type=int, default=1, metavar="N", help="default: 1")
    sub.add_argument("--lr", type=float, default=0.006, metavar="N", help="default: 0.006")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    command("claims", _claims, "Judge the paper's claims; computes Figure 1 (some seconds).")
    text = "Show that the code gives the numbers of an earlier commit, so that its records stand."
    sub = command("prove", _prove, text)
    sub.add_argument("commit")
    return parser


def _version() -> str:
    try:
        return version("linear-backprop")
    except PackageNotFoundError:  # a clone that is on the path, but not installed
        return "(not installed)"


def _add_data(parser: argparse.ArgumentParser) -> None:
    text = "folder of CIFAR-10 (default: $LBP_DATA, else data/ of the project)"
    parser.add_argument("--data", metavar="DIR", help=text)


def _add_training(parser: argparse.ArgumentParser, devices: str) -> None:
    parser.add_argument("--device", default="auto", help=devices)
    parser.add_argument("--minutes", type=float, help="stop between epochs when they are used up")
    text = "take the plain training step on a GPU, not a compiled and captured one"
    parser.add_argument("--eager", action="store_true", help=text)
    _add_data(parser)


def _add_config(parser: argparse.ArgumentParser) -> None:
    try:
        from lbp.lab.config import RunConfig, written
        from lbp.lab.units import UNITS
    except MissingExtra:  # the command itself will say so
        return
    hints = get_type_hints(RunConfig)
    for field in fields(RunConfig):
        kind: Any = hints[field.name]
        default: Any = field.default
        flag = f"--{field.name.replace('_', '-')}"
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag, action=action, default=default, help=f"default: {default}")
        elif get_origin(kind) is Literal or kind is str:
            known = get_args(kind) or (UNITS if field.name == "activation" else ())
            names = f"{', '.join(known)} " if known else ""
            text = f"{names}(default: {default})"
            parser.add_argument(flag, default=default, metavar="NAME", help=text)
        else:
            text = f"default: {written(default)}"
            parser.add_argument(flag, type=kind, default=default, metavar="N", help=text)


# The commands import what they need: training needs less than drawing, and some need nothing.


def _data(options: argparse.Namespace) -> int:
    from lbp.lab import cifar10

    root, dataset = cifar10.data_root(options.data), options.dataset
    check_choice("dataset", dataset, cifar10.DATASETS)
    cifar10.download(root, dataset)
    print(f"{cifar10.DATASETS[dataset]} is whole, in {cifar10.folder(root, dataset)}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from lbp.lab import cifar10, paths
    from lbp.lab.config import RunConfig
    from lbp.lab.fingerprint import is_stale
    from lbp.lab.pool import Place, train_missing
    from lbp.lab.run import Goal
    from lbp.lab.store import Store

    config = RunConfig(**{field.name: getattr(options, field.name) for field in fields(RunConfig)})
    goal = Goal(config, options.epochs)
    store = Store(paths.results())
    place = Place(cifar10.data_root(options.data), store, paths.checkpoints(), options.eager)
    device = _one_device(options.device)
    failures = train_missing([goal], place, [device], jobs=1, minutes=options.minutes)
    if failures:
        raise LbpError(failures[0].reason)
    record = store.get(config)
    if record is not None and is_stale(record):
        raise LbpError(
            f"{store.path(config)} was made by other numerical code: delete it to train the run "
            "with this code"
        )
    if record is None or not record.reaches(goal.epochs):
        again = "goes on from its checkpoint" if record else "begins again"
        print(f"{config}: {_progress(record)}; the same command {again}")
        return 1
    print(f"{config}: {_progress(record)}; {store.path(config)}")
    return 0


def _one_device(names: str) -> Any:
    from lbp.lab.devices import choose_devices

    devices = choose_devices(names)
    if len(devices) > 1:
        raise LbpError(f"device {names!r}: one run trains on one device, so name one")
    return devices[0]


def _reproduce(options: argparse.Namespace) -> int:
    from lbp.experiments.reproduce import reproduce
    from lbp.lab import paths, reruns

    store = checkpoints = None
    if options.rerun is not None:
        check_choice("profile of a rerun", options.profile, ("narrow", "paper"))
        store, checkpoints = reruns.store_of(options.rerun), paths.checkpoints() / options.rerun
    found = reproduce(
        options.experiment,
        options.profile,
        epochs=options.epochs,
        device=options.device,
        jobs=options.jobs,
        minutes=options.minutes,
        data=options.data,
        eager=options.eager,
        store=store,
        checkpoints=checkpoints,
    )
    for results in found:
        _list_runs(results)
    failures = dict.fromkeys(failure for results in found for failure in results.failures)
    for failure in failures:
        print(f"failed: {failure.goal.config}: {failure.reason}")
    if options.profile == "recorded":
        print("nothing is trained with --profile recorded: choose smoke, narrow or paper")
    wanted = options.epochs or sys.maxsize
    there = all(
        results.reached(replace(goal, epochs=min(goal.epochs, wanted)))
        for results in found
        for goal in results.goals
    )
    return 0 if there and not failures else 1


def _status(options: argparse.Namespace) -> int:
    from lbp.experiments import EXPERIMENTS
    from lbp.experiments.reproduce import recorded
    from lbp.experiments.scales import of_profile
    from lbp.lab import paths
    from lbp.lab.config import RunConfig
    from lbp.lab.store import Store

    asked_for: set[RunConfig] = set()
    chosen = [options.experiment] if options.experiment else list(EXPERIMENTS)
    for stem in chosen:
        for scale in of_profile("recorded"):
            results = recorded(stem, scale)
            if options.experiment:
                _list_runs(results)
                continue
            asked_for.update(goal.config for goal in results.goals)
            whole = sum(results.reached(goal) for goal in results.goals)
            stale = f", {len(results.stale)} stale" if results.stale else ""
            print(
                f"{stem}, {scale.name}: {len(results.records)} of {len(results.goals)} runs begun, "
                f"{whole} complete{stale}"
            )
    if not options.experiment:
        print("fig1_synthetic: computed afresh each time, in some seconds; nothing is recorded")
        for record in Store(paths.results()):
            if record.config not in asked_for:
                print(f"another run, {record.config}: up to epoch {len(record)}")
    print(f"store: {paths.results()}; to train a stale run again, delete its record")
    return 0


def _list_runs(results: Any) -> None:
    print(f"{results.stem}, {results.scale.name}. {results.scale.note}")
    if not results.goals:
        print("  this experiment has no runs at this scale")
    for goal in results.goals:
        record = results.records.get(goal.config)
        accuracy = f", test accuracy {record.test_accuracy[-1]:.1f} %" if record else ""
        print(f"  {goal.config}: {results.state(goal)}{accuracy}")


def _pack(options: argparse.Namespace) -> int:
    from lbp.lab import archive, paths
    from lbp.lab.store import Store

    number = archive.pack(Store(paths.results()), options.file)
    print(f"packed {number} {'record' if number == 1 else 'records'} into {options.file}")
    return 0


def _add(options: argparse.Namespace) -> int:
    from lbp.lab import archive, paths
    from lbp.lab.store import Store

    store = Store(paths.results())
    merged = archive.merge(archive.unpack(options.file), store, replace=options.replace)
    print(f"{len(merged.added)} added, {len(merged.known)} known already, to {store.folder}")
    if merged.stale:
        print(f"{len(merged.stale)} left out: other numerical code made them than those here")
    if merged.different:
        names = "; ".join(f"{r.config} ({store.path(r.config).name})" for r in merged.different)
        raise LbpError(
            f"{len(merged.different)} records differ from those here in the epochs that both have, "
            f"which stay: {names}. --replace takes those that are longer"
        )
    return 0


def _rerun(options: argparse.Namespace) -> int:
    from lbp.experiments import reruns
    from lbp.lab.reruns import store_of

    taken = reruns.take(options.file, options.name)
    print(
        f"{len(taken.merged.added)} added, {len(taken.merged.known)} known already, to "
        f"{store_of(options.name).folder}"
    )
    if taken.copies:
        print(f"{len(taken.copies)} left out: they are this book's own records")
    return 0


def _check(options: argparse.Namespace) -> int:
    from lbp.experiments import reruns

    found = [f for path in options.path for f in reruns.check(path)]
    if options.path and not found:
        raise LbpError(f"no record is in {', '.join(map(str, options.path))}")
    if not options.path:
        found = reruns.of_readers()
    for finding in found:
        print(finding)
    print(reruns.answer(found))
    if failed := [finding for finding in found if not finding.stands]:
        raise LbpError(f"{len(failed)} of {len(found)} records do not stand, see the lines above")
    return 0


def _cost(options: argparse.Namespace) -> int:
    from lbp.experiments import cost

    for name, comparisons in cost.measure(options.profile, options.device).items():
        print(f"{name}:" if comparisons else f"{name}: nothing is recorded")
        for comparison in comparisons:
            print(f"  {cost.describe(comparison)}")
    if options.device != "auto" and options.profile in ("recorded", "narrow"):
        print(f"nothing is measured with --profile {options.profile}: choose smoke or paper")
    return 0


def _higgs(options: argparse.Namespace) -> int:
    import torch

    from lbp.lab import higgs

    if options.epochs < 1:
        raise LbpError(f"epochs = {options.epochs}: give 1 or more")
    if not 0 < options.lr < float("inf"):
        raise LbpError(f"lr = {options.lr}: give a number above 0")
    if not 0 <= options.seed < 2**31:
        raise LbpError(f"seed = {options.seed}: give a number from 0 to {2**31 - 1}")
    device = _one_device(options.device)
    torch.manual_seed(options.seed)
    model = higgs.network(options.hinges, options.rule).to(device)
    events, test = (higgs.load(path).to(device) for path in (options.train, options.test))
    print(f"{len(events)} events to train on, {len(test)} to judge by", flush=True)
    for epoch in higgs.train(model, events, test, options.epochs, options.lr):
        print(epoch, flush=True)
    return 0


def _claims(options: argparse.Namespace) -> int:
    from lbp.experiments import claims

    for verdict in claims.verdicts():
        claim = verdict.claim
        print(f"{claim.id}: {verdict.text}")
        print(f"  {claim.statement} ({claim.place})")
        print(f"  paper: {claim.paper} ({claims.SOURCES[claim.source]}); found: {verdict.found}")
        print(f"  test: {claim.tested}")
    return 0


def _prove(options: argparse.Namespace) -> int:
    from lbp.lab import equals, paths

    proofs = equals.prove(options.commit)
    for proof in proofs:
        print(f"{proof.old} equals {proof.new}, shown by {len(proof.runs)} runs")
    if proofs:
        print(f"recorded in {paths.equals()}: commit it")
    else:
        print("the fingerprints are the same, or proved equal already: there is nothing to record")
    return 0


def _progress(record: Any) -> str:
    if record is None:
        return "no epoch is finished"
    if record.diverged:
        return f"diverged in epoch {len(record)}"
    return f"test accuracy {record.test_accuracy[-1]:.1f} % after epoch {len(record)}"


if __name__ == "__main__":
    sys.exit(main())
