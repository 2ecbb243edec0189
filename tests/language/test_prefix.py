"""Vision tokens among the embedded text, against a loop over samples and places."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tove_core.language.batch import assemble
from tove_core.language.prompt import EncodedText

TEXTS = [EncodedText((9, 4), (8,), (1,), ((5, 6), ())), EncodedText((), (7, 7, 3), (2, 1), ((), (4,)))]


class Operations(TorchDispatchMode):
    """Notes the names of all operations, those of a backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_images_places_hold_its_tokens_in_order_and_their_gradient_goes_back(make, side):
    decoder = make("llama", train="all")
    tokens = torch.randn(2, 6, decoder.width, requires_grad=True)
    batch = assemble(TEXTS, image=6, pad=0, side=side)
    found = decoder._embed(tokens, batch)
    image, wanted = decoder.projector(tokens), decoder.language_model.get_input_embeddings()(batch.ids).clone()
    for i in range(2):
        for place, at in enumerate(batch.image_mask[i].nonzero().flatten().tolist()):
            wanted[i, at] = image[i, place]
    assert torch.equal(found, wanted)
    weight = torch.randn_like(found)
    asked = [tokens, *(p for group in decoder.trainable_parameters().values() for p in group)]
    ours = torch.autograd.grad((found * weight).sum(), asked, allow_unused=True)
    theirs = torch.autograd.grad((wanted * weight).sum(), asked, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_of_a_size_that_a_gpu_must_be_asked_for_is_done(make):
    decoder = make("llama", train="all")
    tokens = torch.randn(2, 6, decoder.width, requires_grad=True)
    batch = assemble(TEXTS, image=6, pad=0)
    with Operations() as seen:
        decoder._embed(tokens, batch).sum().backward()
    assert not seen.names & {"nonzero", "masked_select", "masked_scatter", "item", "_local_scalar_dense"}
    assert tokens.grad is not None


def test_a_batch_goes_to_a_device_without_its_labels_which_nothing_there_reads():
    batch = assemble(TEXTS, image=6, pad=0).to(torch.device("meta"))
    here = {name for name, value in vars(batch).items() if value.device.type == "cpu"}
    assert here == {"labels"}
