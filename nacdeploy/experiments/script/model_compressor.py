"""Compressing a model that the user's own script builds and trains.

Masks come first, so that the script's optimizer goes on with the same parameters; `apply_speedup` then cuts channels
for real. Choices are those of the operators: the same code as in a chain.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy import profile as profiles
from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.experiments.config.grammar import Compression
from nacdeploy.experiments.config.selection import Selection, select
from nacdeploy.experiments.config.vocabulary import QUANTIZATION, compressor
from nacdeploy.experiments.driver import reporting
from nacdeploy.experiments.procedures import compressors
from nacdeploy.experiments.procedures.run import LEVEL, SLIM, Run, Shares, slim_shares, units
from nacdeploy.experiments.script import exporting
from nacdeploy.experiments.script.given import CPU, Given, at_home, blank, collected, device_of, example_of, placed
from nacdeploy.experiments.script.masking import (
    Masking,
    follow_parameters,
    masks_of_cut,
    taken_masks,
)
from nacdeploy.experiments.script.script_run import follower, initial, said_once
from nacdeploy.network.attachments.sparsity import ELEMENT
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.calibration import calibrate_ranges
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.state import CompressionState, Step
from nacdeploy.strategies.steps import letters
from nacdeploy.surgery.channels import channel_pruning
from nacdeploy.task import Task

restore = exporting.restore


def create_compressor(
    model: nn.Module,
    config: Mapping[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    data: Iterable[tuple[Tensor, Tensor]] | None = None,
    dummy_input: Tensor | None = None,
    evaluator: Callable[[nn.Module], float] | None = None,
    trainer: Callable[[nn.Module], None] | None = None,
    target: str = "onnx",
) -> "ModelCompressor":
    """Return what compresses `model` as `config` says.

    Args:
        config: what `load_config` returns, or the `compression` table of an experiment.
        optimizer: goes on after `apply_speedup` with the smaller parameters.
        data: batches of inputs (N, ...) and labels (N,), for compressors that look at images and for ranges.
        dummy_input: an input (1, ...), to find which channels are coupled; by default one of `data`, or a guess.
        evaluator: accuracy of a model (a fraction), for compressors that compare networks.
        trainer: trains a model for a short time in place, for compressors that train between their steps.
        target: whose integers quantizers simulate.

    Raises:
        UsageError: errors in the configuration, all named at once; layers that are not there; something needed is not
            given.
    """
    compression = reporting.compression_of(config)
    given = collected(data) if data is not None else None
    example = example_of(model, dummy_input, given)
    profile = profiles.from_mapping({"name": "script", "target": target, "seed": int(config.get("random_seed") or 0)})
    selection = select(compression.config_list, model, with_norms=compression.compressor == SLIM)
    made = ModelCompressor(model, compression, selection, profile, example, optimizer, given, evaluator, trainer)
    made.check()
    return made


class ModelCompressor:
    """A model under compression. Made by `create_compressor`."""

    def __init__(
        self,
        model: nn.Module,
        compression: Compression,
        selection: Selection,
        profile: Profile,
        example: Tensor,
        optimizer: torch.optim.Optimizer | None,
        given: Given | None,
        evaluator: Callable[[nn.Module], float] | None,
        trainer: Callable[[nn.Module], None] | None,
    ) -> None:
        self.model = model
        self.compression, self.selection, self.profile = compression, selection, profile
        self._words = compressor(compression.compressor)
        self._optimizer, self._given, self._evaluator, self._trainer = optimizer, given, evaluator, trainer
        self._device = device_of(model)
        evaluate, train = at_home(evaluator, self._device), at_home(trainer, self._device)
        grid = profile.target.grid(profile.of(QuantizeTable).grid)
        network = Network(model, grid, tuple(example.shape[1:]))
        task, was_training = Task(None, given or blank(example)), model.training  # type: ignore[arg-type]
        with placed(model, CPU):
            start = initial(network, evaluate)
        self._run = Run(
            start,
            task,
            profile,
            selection,
            compression.settings,
            say=said_once(print),
            follower=follower(task, evaluate, train, has_data=given is not None),
        )
        network.train(was_training)
        self._steps: tuple[Step, ...] = ()
        self._pending: Step | None = None
        self._masking, self._masks = Masking({}), dict[str, Tensor]()  # the latter also after a cut
        self._epoch = self._iteration = -1
        self._first: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def check(self) -> None:
        """Refuse early what needs more than was given.

        Raises:
            UsageError: says which argument.
        """
        name, needs = self._words.name, []
        if self._words.sees_images or name in ("admm", "auto-compress"):
            needs += ["data=batches of (inputs, labels)"] if self._given is None else []
        if self._words.is_procedure and name not in ("admm", "lottery-ticket"):
            needs += ["evaluator=a function of a model that returns its accuracy"] if self._evaluator is None else []
        if needs:
            raise UsageError(f"compressor '{name}' needs more: create_compressor(..., {', '.join(needs)})")

    def compress(self) -> nn.Module:
        """Return the compressed model: with masks in it (the same object), as a simulation of its integers, or, from a
        compressor that compares networks, cut already."""
        with placed(self.model, CPU):
            made = self._compressed()
        return made.to(self._device)

    def _compressed(self) -> nn.Module:
        name = self._words.name
        if self._words.type == QUANTIZATION:
            return self._quantized()
        if name == "lottery-ticket":
            self._first = {n: v.detach().clone() for n, v in self.model.state_dict().items()}
            return self.model
        if self._words.is_procedure:
            return self._through(compressors.compress(name, self._run))
        if name == "agp":
            self.update_epoch(0)
            return self.model
        shares = units(self._run, name).shares
        return self._masked(slim_shares(self._run, shares) if name == SLIM else shares, name)

    def update_epoch(self, epoch: int | None = None) -> None:
        """Say that an epoch begins (counted from 0): schedules raise their share."""
        self._epoch = self._epoch + 1 if epoch is None else epoch
        if self._words.name == "agp":
            with placed(self.model, CPU):
                shares = compressors.agp_shares(self._run, self._epoch)
            self._masked(shares, self._run.setting("pruning_algorithm", LEVEL))

    def step(self) -> None:
        """Say that the optimizer made a step: masked weights become zero again."""
        self._masking(self.model)

    def get_prune_iterations(self) -> range:
        """Return the rounds of a lottery ticket: the first trains the whole network, each later one prunes before."""
        return range(self._run.setting("prune_iterations", 3) + 1)

    def prune_iteration_start(self) -> None:
        """Say that a round of a lottery ticket begins: prune what is small, and go back to the first weights."""
        self._iteration += 1
        if self._iteration == 0:
            return
        part = self._iteration / (len(self.get_prune_iterations()) - 1)
        shares = {name: 1 - (1 - share) ** part for name, share in units(self._run, LEVEL).shares.items()}
        self._masked(shares, LEVEL)
        if self._run.setting("reset_weights", True):
            self.model.load_state_dict(self._first)
            self._masking(self.model)

    def apply_speedup(self, dummy_input: Tensor | None = None, mask_path: str | None = None) -> nn.Module:
        """Return the same model with its masked channels cut for real; it answers as before.

        Raises:
            UsageError: the compressor cuts no channels.
        """
        if self._pending is None:
            if any(step.link.letter == "P" for step in self._steps):
                return self.model
            raise UsageError(f"'{self._words.name}' cuts no channels: nothing to speed up; l1, taylor and others do")
        former = dict(self.model.named_parameters())
        self._unhook()
        with placed(self.model, CPU):
            channel_pruning.apply_cut(self._network, self._pending.decision.cut)
        self._steps, self._pending = (*self._steps, self._pending), None
        self._masking = Masking({})
        follow_parameters(self._optimizer, former, self.model)
        return self.model

    def export_model(
        self,
        model_path: str = "model_compressed.safetensors",
        mask_path: str | None = None,
        folder_name: str | None = None,
        speedup: bool = False,
        dummy_input: Tensor | None = None,
        **_old: Any,
    ) -> Path:
        """Write the model's values to `model_path` (`.safetensors`, or torch's format for `.pt` and `.pth`: tensors
        only), its masks to `mask_path`, and beside them a folder that `restore` reads; its path is returned. Within a
        job, relative paths lie in the job's folder.

        Raises:
            UsageError: `speedup` of a compressor that cuts no channels.
        """
        if speedup:
            self.apply_speedup(dummy_input)
        self._masking(self.model)
        folder = exporting.place(folder_name, reporting.job_folder())
        if mask_path is not None:
            exporting.write_values(folder / mask_path, self._masks)
        return exporting.write(folder, model_path, self._network, self._steps)

    @property
    def _network(self) -> Network:
        return self._run.start.network

    def _masked(self, shares: Shares, algorithm: str) -> nn.Module:
        """Masks on the model by S or P."""
        wanted = {name: share for name, share in shares.items() if share > 0}
        self._unhook()
        if not wanted:
            return self.model
        if algorithm == LEVEL:
            table = {"pattern": ELEMENT, "ratios": wanted, "patterns": {}, "exclude": [], "min_channels": 1}
            step = self._decided("S", {"sparsify": table})
            self._network.sparsify(step.decision.rule)
            masks = taken_masks(self._network)
        else:
            keys = {k: v for k, v in self.compression.settings.items() if k == "n_calibration"}
            table = {
                "ratios": wanted,
                "importance": algorithm,
                "multiple": self._run.setting("channel_round", 1),
                **keys,
            }
            step = self._pending = self._decided("P", {"prune": table})
            masks = masks_of_cut(self.model, step.decision.cut)
        self._hooked(Masking(masks))
        return self.model

    def _decided(self, letter: str, tables: Mapping[str, Any]) -> Step:
        operator = letters.make(Link(letter), profiles.override(self.profile, dict(tables)))
        was_training = self._network.training
        with placed(self.model, CPU):
            reason = operator.refusal(self._run.start)
            if reason is not None:
                raise RefusedError(f"{operator.letter} ({operator.name}) is refused: {reason}")
            decision = operator.decide(self._run.start, self._run.task)
        self._network.train(was_training)
        return Step(Link(letter), decision)

    def _hooked(self, masking: Masking) -> None:
        self._masking, self._masks = masking, masking.masks
        masking(self.model)
        self._hooks = [self.model.register_forward_pre_hook(masking)]
        if self._optimizer is not None:
            self._hooks.append(self._optimizer.register_step_post_hook(lambda *step: masking(self.model)))

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _quantized(self) -> nn.Module:
        """Return the network that simulates integers; ranges are found on `data`, or on the first batch that it
        sees."""
        step = self._decided("Q", {"quantize": compressors.quantize_table(self._words.name, self._run)})
        self._steps = (*self._steps, step)
        network = self._network
        network.quantize(step.decision.rule)
        if self._given is not None:
            calibrate_ranges(network, self._run.task.data, self._given.train, self.profile.of(QuantizeTable))
        else:
            self._calibrate_on_first_batch()
        return network.train()

    def _calibrate_on_first_batch(self) -> None:
        def calibrate(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            handle.remove()
            first = collected([(args[0].detach(), torch.zeros(len(args[0]), dtype=torch.long))])
            calibrate_ranges(self._network, first, first.train, self.profile.of(QuantizeTable))  # type: ignore[arg-type]

        handle = self._network.register_forward_pre_hook(calibrate)

    def _through(self, state: CompressionState) -> nn.Module:
        """Return the model that a procedure made, in place of the script's own."""
        former = dict(self.model.named_parameters())
        self.model = state.network.backbone
        self._steps = tuple(step for step in state.steps if step.link.letter != "S")  # its zeros are in the values
        masks = taken_masks(state.network)
        self._run = replace(self._run, start=state)
        if masks:
            self._hooked(Masking(masks))
        follow_parameters(self._optimizer, former, self.model)
        return self.model.train()
