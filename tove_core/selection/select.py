"""Learn to choose experts image by image under a budget, and say whether it was worth it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tove_core.checkpoint import selector_of
from tove_core.checks import seed_given, whole
from tove_core.errors import ConfigError
from tove_core.fusion.selector import Selection
from tove_core.language.base import Decoder
from tove_core.model import ToveModel
from tove_core.selection.costs import expert_costs
from tove_core.selection.judge import Judge
from tove_core.selection.learn import learn
from tove_core.selection.parts import parted
from tove_core.selection.report import SelectionReport
from tove_core.training.examples import Examples
from tove_core.training.lengths import fitting


def select(
    model: ToveModel,
    examples: Examples,
    budget: float,
    *,
    costs: Mapping[str, float] | None = None,
    steps: int = 500,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    hidden: int = 64,
    seed: int = 0,
    quiet: bool = True,
) -> SelectionReport:
    """Let a model choose experts image by image from now on, and return how that does beside fixed choices.

    A small selector learns from CLIP's tokens what each expert saves; nothing else of the model changes. It learns on
    60 % of the images, its price and its rivals are chosen on 20 %, and all are scored on the last 20 %. Samples that
    are too long for the language model, or whose image turns out unreadable, are left out, with a warning.

    Args:
        model: trained. A selector it has already is replaced.
        examples: samples bound to it, best such as it was not trained on.
        budget: mean cost of an image, as a share of running all experts that are on; above 0 and below 1.
        costs: of each expert that is on, in any one unit; None: operations, counted.
        steps: of learning.
        batch_size: samples learnt from, or measured, together.
        learning_rate: highest of the selector's.
        hidden: width of its hidden layer.
        seed: of its parameters, the order of samples, random sets and the parts.
        quiet: show no progress.

    Raises:
        ConfigError: the model has no decoder or no expert on, or an argument is out of its range.
        DataError: the examples hold features of another model, there are too few images, or too many samples are left
            out.
        ToveError: the loss of a sample is not finite.
    """
    decoder = require_selectable(model, budget)
    examples.require_of(model)
    steps, seed = whole(steps, "steps", least=1), seed_given(seed)
    batch_size, hidden = whole(batch_size, "batch_size", least=1), whole(hidden, "hidden", least=1)
    if not learning_rate > 0:
        raise ConfigError(f"the learning rate is {learning_rate!r}; give a number above 0")
    shares = expert_costs(model, costs)
    model.eval()
    learnt, chosen_on, scored_on = parted(fitting(model, decoder, examples), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        selector = selector_of(model, Selection(budget=budget, price=0, costs=shares, hidden=hidden))
    options = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "quiet": quiet}
    learn(model, decoder, selector, learnt, **options)  # type: ignore[arg-type]  # each of its own type
    judge = Judge(model, decoder, selector, batch_size, seed)
    judge.choose(chosen_on)
    found = judge.score(scored_on)
    model.selector, model.selecting = selector, True
    samples = {"learnt from": len(learnt), "chosen on": len(chosen_on), "scored": len(scored_on)}
    return SelectionReport(seed=seed, steps=steps, samples=samples, selection=selector.selection, **found)


def require_selectable(model: ToveModel, budget: float) -> Decoder:
    """Refuse what `select` would refuse, before samples are encoded; return the model's decoder.

    Raises:
        ConfigError: the model has no decoder, no expert on, or no residual; or the budget is out of its range.
    """
    if model.decoder is None:
        raise ConfigError("what experts save is measured by the language loss; the model was built with decoder=None")
    if not model.active_experts:
        raise ConfigError("the model has no expert on, so that there is none to choose; give a run with experts")
    if model.config.fusion.replace:
        raise ConfigError(
            "fusion.replace leaves no tokens where no expert is chosen; select experts of a model with the residual"
        )
    if not model.trained:
        raise ConfigError("the model was never trained, so that no expert saves anything; run 'tove train' first")
    if not 0 < budget < 1:
        raise ConfigError(f"the budget is {budget}; give a share of the cost of all experts, above 0 and below 1")
    return model.decoder
