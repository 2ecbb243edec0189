"""Modules whose state dict holds more than tensors."""

from __future__ import annotations


def test_extra_state_that_is_no_tensor_is_no_fault(offer, everything, patches):
    class Versioned(patches):
        def get_extra_state(self):
            return {"version": 2}

        def set_extra_state(self, state):
            assert state == {"version": 2}

    results = everything(offer(lambda ctx: Versioned(), convert=dict))
    told = {name: result.detail for name, result in results.items() if not result.ok}
    assert told == {} and results["frozen-and-eval-sticky"].status == results["convert-is-pure"].status == "passed"
