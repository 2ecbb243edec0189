"""A device that is not there: `sim:0` and `sim:1` compute on the CPU, and refuse what a GPU refuses about places.

PyTorch lets a backend be written in Python. This one keeps every tensor's values in an ordinary one, `raw`, and does
each operation there. What is left of a GPU is that tensors on different devices do not mix: a forgotten `.to(device)`,
a buffer that stayed behind, a CPU generator for a draw on the device or `numpy()` of a tensor there fails here as it
would there. Import it only in a process of its own: the device stays registered, and torch functions are wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library, nn
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "sim"
aten = torch.ops.aten


wide = {"float64": True}
"""Whether the device has float64; MPS has not."""


class Misplaced(RuntimeError):
    """Tensors of several devices in one operation."""


class _Backend:
    """What torch asks a backend about."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Simulated(Tensor):
    """A tensor on the device; `raw` holds its values, and views share them as they do anywhere."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor, place: torch.device) -> Simulated:
        if raw.dtype == torch.float64 and not wide["float64"]:
            raise TypeError("this device has no float64")
        own = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        return Tensor._make_wrapper_subclass(cls, raw.size(), **own, device=place)  # type: ignore[attr-defined]

    def __init__(self, raw: Tensor, place: torch.device) -> None:
        self.raw = raw

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.raw!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        self.raw = new.raw  # type: ignore[attr-defined]  # torch refuses any other
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied: Any = Simulated(self.raw.clone(), self.device)
            if isinstance(self, nn.Parameter):
                copied = nn.Parameter(copied, self.requires_grad)
            copied.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("raw", "_is_param")})
            memo[id(self)] = copied
        return memo[id(self)]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_placed(key, self.device))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_placed(key, self.device), value)

    def tolist(self) -> Any:
        return self.raw.tolist()

    def numpy(self, **options: Any) -> Any:
        raise TypeError(f"a tensor on {self.device} has no numpy; use Tensor.cpu() first")

    def __array__(self, *given: Any, **options: Any) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def storage(self) -> Any:
        return self.raw.storage()

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()


def _placed(key: Any, place: torch.device) -> Any:
    """Return an index whose lists are tensors; torch makes them behind the device's back."""
    if isinstance(key, tuple):
        return tuple(_placed(one, place) for one in key)
    return torch.tensor(key).to(place) if isinstance(key, list) else key


# Copies are what brings values from one place to another; an index may lie on the CPU, as for CUDA.
ACROSS = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
PLAIN = {aten._local_scalar_dense.default, aten.is_pinned.default}


def _check(func: Any, args: Any, kwargs: Any) -> None:
    """Refuse tensors on several devices, but for scalars, and a generator of another device than the result's."""
    given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    if func in INDEXED:
        given = [args[0], *args[2:3]]
    places = {str(one.device) for one in given if one.dim() or isinstance(one, Simulated)}
    if func not in ACROSS and len(places) > 1:
        shapes = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in given)
        raise Misplaced(f"{func} was given {shapes}")
    wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    drawn = any(isinstance(one, torch.Generator) for one in tree_leaves((args, kwargs)))
    if drawn and NAME in (wanted, *(one.device.type for one in given)):
        raise Misplaced(f"{func} was given a CPU generator")


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Do an operation on the values, and put the result where a device would have it."""
    _check(func, args, kwargs)
    own = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Simulated)]
    place = own[0].device if own else None
    if kwargs.get("device") is not None:
        asked = torch.device(kwargs["device"])
        place = torch.device(NAME, asked.index or 0) if asked.type == NAME else None
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    plain_args, plain_kwargs = tree_map_only(Simulated, lambda one: one.raw, (args, kwargs))
    found = func(*plain_args, **plain_kwargs)
    written = _written(func, args, kwargs)
    if written:
        for one in written:
            if isinstance(one, Simulated) and one.shape != one.raw.shape:
                raise NotImplementedError(f"{func} changes a shape in place, which this device cannot")
        return written[0] if len(written) == 1 else None if found is None else type(found)(written)
    if place is None or func in PLAIN:
        return found
    return tree_map_only(Tensor, lambda one: Simulated(one, place), found)


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """Return what an operation writes to: it gives these back, and no new tensors."""
    found: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            found += value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return found


def _kernel(op: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _run(op, args, kwargs)


def _factories() -> list[Any]:
    """Return what makes tensors out of none, such as `arange`; there is no tensor that would lead to `_run`."""
    packets = [getattr(aten, name) for name in dir(aten)]
    ops = [getattr(p, o) for p in packets if isinstance(p, torch._ops.OpOverloadPacket) for o in p.overloads()]
    return [
        op
        for op in ops
        if any(one.name == "device" for one in op._schema.arguments)
        and not any("Tensor" in str(one.type) for one in op._schema.arguments)
        and not op.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    ]


# What autocast computes in the narrow type, and what it does not; of either the part that models use.
NARROW = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv2d", "scaled_dot_product_attention")
WIDE = (
    *("layer_norm.default", "softmax.int", "log_softmax.int", "cross_entropy_loss.default", "nll_loss.default"),
    *("mse_loss.default", "pow.Tensor_Scalar", "sum.default", "sum.dim_IntList", "exp.default", "log.default"),
)


def _casting(op: Any, narrow: bool) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME) if narrow else torch.float32

        def own(one: Tensor) -> Tensor:
            return one.to(dtype) if one.is_floating_point() and one.dtype != torch.float64 else one

        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = tree_map_only(Simulated, own, (args, kwargs))
            return op(*args, **kwargs)

    return cast


def _from_values(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let `torch.tensor` make its tensor on the CPU first; it copies behind the device's back."""

    def made(data: Any, *args: Any, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
        if device is None or torch.device(device).type != NAME:
            return make(data, *args, device=device, **options).requires_grad_(requires_grad)
        value = data if isinstance(data, Simulated) else make(data, *args, **options)
        return value.to(device).requires_grad_(requires_grad)

    return made


def _new_tensor(self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, **options)


def _apply(self: nn.Module, *given: Any, **options: Any) -> nn.Module:
    """Move a module whose parameters are shared without parting them: they stay the same objects, as for CUDA."""
    future, parameters = torch.__future__, [one for one in self._parameters.values() if one is not None]
    before = future.get_swap_module_params_on_conversion()
    future.set_swap_module_params_on_conversion(any(not isinstance(one, Simulated) for one in parameters))
    try:
        return _PLAIN_APPLY(self, *given, **options)
    finally:
        future.set_swap_module_params_on_conversion(before)


_PLAIN_APPLY = nn.Module._apply
_KEPT: list[library.Library] = []
"""What is registered is forgotten with its library."""


def register() -> None:
    """Bring the device about, once in a process."""
    if _KEPT:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    _device_constructors()  # remembers functions by what they are, which the wrappers below are not
    everything, some = library.Library("_", "IMPL"), library.Library("aten", "IMPL")
    _KEPT.extend((everything, some))
    everything.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    everything.fallback(library.fallthrough_kernel, "AutocastPrivateUse1")
    for op in _factories():
        some.impl(op, _kernel(op), "PrivateUse1")
    for op, narrow in [*((f"{name}.default", True) for name in NARROW), *((name, False) for name in WIDE)]:
        packet, _, overload = op.partition(".")
        found = getattr(getattr(aten, packet), overload)
        some.impl(found, _casting(found, narrow), "AutocastPrivateUse1")
    torch.tensor, torch.as_tensor = _from_values(torch.tensor), _from_values(torch.as_tensor)
    Tensor.new_tensor = _new_tensor  # type: ignore[method-assign]
    nn.Module._apply = _apply  # type: ignore[method-assign]
