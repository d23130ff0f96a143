"""A GPU that is not there: real values on the CPU, placed and refused as CUDA would.

::

    with FakeGPU() as gpu:                 # torch.cuda.is_available() and the like say yes
        Predictor(card, "cuda")(batch)     # mixed devices, .numpy() of a tensor on it: raise
    assert gpu.ops and not gpu.alerts

What it models
    - *Place.* A storage is on the device where it is tagged: by ``.to("cuda")``, by
      ``device="cuda"``, or as what an operation makes of tagged ones. An operation that mixes
      devices raises, but for numbers without dimension and positions of an index, as in CUDA; so
      does ``numpy()`` of a tagged tensor.
    - *Determinism.* Under a strict mode what PyTorch documents as without a deterministic form
      raises, as do products of matrices without CUBLAS_WORKSPACE_CONFIG; under ``warn`` they are
      counted in `alerts` alone. Bilinear enlargement takes the gathers that CUDA takes then.
    - *Memory.* Of tagged storages that live; with ``memory`` the operation that needs more raises
      `torch.OutOfMemoryError`. `held_at_empty` is what lived at each ``empty_cache()``.
    - *Errors.* `fail` lets operations raise any words of CUDA's libraries; one of CUDA itself
      stays, as a context does that is lost.
    - *Counts.* `ops` by name, `ups` and `downs` of transfers, `up` and `down` in bytes.

What it cannot see
    What aten makes from nothing inside an operation, but for ``one_hot``: it would lie on the CPU.
    Bits of a GPU's kernels, speed, streams and overlap, pinned memory, NCCL, several GPUs, other
    threads than the one that entered it, and what libraries allocate for themselves. Nothing that
    it says is evidence of a real device.

``leave_out`` names one transfer, by the function of `engine` that makes it and a part of its line:
it is then not made (`left_out` counts), which the paths' tests must notice.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from torch._decomp.decompositions import _upsample_linear_vec
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import engine

__all__ = ["NAME", "FakeGPU"]

NAME = "Fake GPU"
_ENGINE = str(Path(engine.__file__).parent)
_PLACE = {"device": torch.device("cuda", 0), "is_cuda": True, "is_cpu": False}
_INDEXED = ("index", "index_put", "index_put_", "_unsafe_index")  # take positions from the CPU
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot")
_WORKSPACES = (":4096:8", ":16:8")
_ALERTS = frozenset(
    [
        "nll_loss2d_forward",
        "grid_sampler_2d_backward",
        "max_unpool2d",
        "histc",
        "put_",
        "reflection_pad1d_backward",
        "reflection_pad2d_backward",
        "upsample_linear1d_backward",
        "upsample_bilinear2d_backward",
        "upsample_bicubic2d_backward",
        "_adaptive_avg_pool2d_backward",
        "adaptive_max_pool2d_backward",
        "avg_pool3d_backward",
    ]
)
"""As ``torch.use_deterministic_algorithms`` lists them, where natmap could come upon them; a
``cumsum`` of floats is one more. Of NLLLoss PyTorch's source has the one of images alone."""

_CUDA: dict[str, Any] = {
    "is_available": True,
    "device_count": 1,
    "is_bf16_supported": True,
    "get_device_capability": (9, 0),
    "get_device_name": NAME,
    "current_device": 0,
    "mem_get_info": (1 << 36, 1 << 36),
    "set_device": None,
    "synchronize": None,
}
_autocast = torch.autocast
_bilinear = torch._C._nn.upsample_bilinear2d


class FakeGPU(TorchFunctionMode):
    """One GPU, for the thread that enters it.

    Parameters
    ----------
    memory : bytes that it has; None: enough.
    leave_out : a function of `engine` and a part of the line in which it moves a tensor.

    Attributes
    ----------
    ops : how often each operation ran on it, by aten's name.
    alerts : of those without a deterministic form, under strict mode or warned of.
    ups, downs : transfers; up, down : their bytes.
    peak : most bytes that lived on it, where ``memory`` is given.
    held_at_empty : bytes that lived on it at each ``empty_cache()``.
    shares : what each process was allowed of its memory, as asked for.
    left_out : how often the transfer of ``leave_out`` was not made.
    """

    def __init__(self, memory: int | None = None, leave_out: tuple[str, str] | None = None) -> None:
        super().__init__()
        self.memory, self.leave_out = memory, leave_out
        self.ops, self.alerts = Counter[str](), Counter[str]()
        self.ups = self.downs = self.up = self.down = self.peak = self.left_out = 0
        self.held_at_empty: list[int] = []
        self.shares: list[float] = []
        self._on: dict[int, tuple[StorageWeakRef, int]] = {}
        self._lost: RuntimeError | None = None
        self._fail: Callable[[str, int], Exception | None] = lambda name, size: None
        self._ops = _Operations(self)
        self._patches = [
            mock.patch.object(torch.cuda, name, lambda *_, value=value, **__: value)
            for name, value in _CUDA.items()
        ]
        for where, name, value in (
            (torch.cuda, "empty_cache", lambda: self.held_at_empty.append(self.held)),
            (torch.cuda, "set_per_process_memory_fraction", self.shares.append),
            (
                torch,
                "autocast",
                lambda kind, *a, **k: _autocast(kind.replace("cuda", "cpu"), *a, **k),
            ),
            (torch._C._nn, "upsample_bilinear2d", self._enlarge),
        ):
            self._patches.append(mock.patch.object(where, name, value))

    def __enter__(self) -> Self:
        for patch in self._patches:
            patch.start()
        self._ops.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._ops.__exit__(*error)
        for patch in self._patches:
            patch.stop()

    # -- what a test asks and orders ----------------------------------------------------------

    def has(self, x: Any) -> bool:
        """Whether a tensor lies on it."""
        return isinstance(x, torch.Tensor) and x.untyped_storage()._cdata in self._on

    @property
    def held(self) -> int:
        """Bytes of tensors that live on it."""
        self._on = {key: one for key, one in self._on.items() if not one[0].expired()}
        return sum(size for _, size in self._on.values())

    def fail(self, words: str, ops: tuple[str, ...] = (), over: int = 0) -> None:
        """Let operations raise these words of CUDA's.

        Parameters
        ----------
        words : of the error. One that begins with ``CUDA error`` stays until the end.
        ops : names; by default all.
        over : bytes of what an operation makes, from which it raises.
        """

        def found(name: str, size: int) -> Exception | None:
            if size <= over or (ops and name not in ops):
                return None
            if not words.startswith("CUDA error"):
                return RuntimeError(words)
            self._lost = torch.AcceleratorError(words)
            return self._lost

        self._fail = found

    # -- how it does so -----------------------------------------------------------------------

    def put(self, x: torch.Tensor, there: bool = True) -> torch.Tensor:
        """Tag a tensor's storage as on the device, or as not."""
        storage = x.untyped_storage()
        held = StorageWeakRef(storage)  # its address is not used again meanwhile
        if there:
            self._on[held.cdata] = held, storage.nbytes()
        else:
            self._on.pop(held.cdata, None)
        return x

    def check(self, name: str, made: list[torch.Tensor]) -> None:
        """Raise what an operation that made these would, on a GPU that fails or is full."""
        if self._lost is not None:
            raise self._lost
        size = sum(x.nbytes for x in made if not self.has(x))
        if (error := self._fail(name, size)) is not None:
            raise error
        if self.memory is None:
            return
        if (total := self.held + size) > self.memory:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self.peak = max(self.peak, total)

    def _enlarge(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        """Bilinear as deterministic CUDA has it, by gathers."""
        if not (self.has(x) and torch.are_deterministic_algorithms_enabled()):
            return _bilinear(x, *args)
        with mock.patch.multiple(self, _patches=[], _ops=mock.MagicMock()), self:
            return _upsample_linear_vec(x, *args)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name, x = (
            dict(kwargs or {}),
            getattr(func, "__name__", ""),
            args[0] if args else None,
        )
        if name == "__get__" and self.has(x):
            asked = getattr(getattr(func, "__self__", None), "__name__", "")
            return _PLACE[asked] if asked in _PLACE else func(*args, **kwargs)
        if name in ("numpy", "__array__") and self.has(x):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if name in ("to", "cpu", "cuda") and isinstance(x, torch.Tensor):
            return self._move(name, x, [*args[1:], *kwargs.values()], kwargs.get("memory_format"))
        if name == "one_hot" and self.has(x):  # aten makes it on the real device
            asked = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
            count = asked if asked >= 0 else int(x.max()) + 1
            return (x[..., None] == self.put(torch.arange(count))).long()
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            made = func(*args, **kwargs | {"device": "cpu"})
            self.check(name, [made])
            return self.put(made)
        return func(*args, **kwargs)

    def _move(self, name: str, x: torch.Tensor, given: list[Any], form: Any) -> torch.Tensor:
        here, dtype = self.has(x), x.dtype
        there = {"cpu": False, "cuda": True}.get(name, here)
        for one in given if name == "to" else ():
            if isinstance(one, torch.Tensor):
                there, dtype = self.has(one), one.dtype
            elif isinstance(one, torch.dtype):
                dtype = one
            elif isinstance(one, str | torch.device) or type(one) is int:
                there = torch.device(one).type == "cuda"
        y = x.to(dtype, memory_format=form or torch.preserve_format)
        if there == here or self._forgotten():
            return y
        if there:
            y = y.clone()
            self.check("copy_", [y])
            self.ups, self.up = self.ups + 1, self.up + y.nbytes
        else:
            if self._lost is not None:
                raise self._lost
            y = y.clone()
            self.downs, self.down = self.downs + 1, self.down + y.nbytes
        return self.put(y, there)

    def _forgotten(self) -> bool:
        """Whether this transfer is the one to leave out, by the line of `engine` at work."""
        if self.leave_out is None:
            return False
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(_ENGINE):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is None or frame.f_code.co_name != self.leave_out[0]:
            return False
        found = self.leave_out[1] in linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        self.left_out += found
        return found


class _Operations(TorchDispatchMode):
    """Sees every operation below autograd, and what it is given."""

    def __init__(self, gpu: FakeGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, name, kwargs = self.gpu, func._schema.name.split("::")[1], kwargs or {}
        if name == "copy_" or not any(map(gpu.has, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        if _is_composite(func):  # inference mode shows them, and hides what they are made of
            with self:
                return func.decompose(*args, **kwargs)
        seen = (args, kwargs)
        if name in _INDEXED and gpu.has(args[0]):
            seen = (args[0], args[2:])
        for x in tree_leaves(seen):
            if isinstance(x, torch.Tensor) and x.dim() and not gpu.has(x):
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two "
                    f"devices, cuda:0 and cpu! (in aten::{name})"
                )
        gpu.ops[name] += 1
        unset = name in _PRODUCTS and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _WORKSPACES
        floats = name == "cumsum" and args[0].is_floating_point()
        if torch.are_deterministic_algorithms_enabled() and (unset or floats or name in _ALERTS):
            gpu.alerts[name] += 1
            if not torch.is_deterministic_algorithms_warn_only_enabled():
                raise RuntimeError(
                    f"{name} does not have a deterministic implementation on CUDA, or cuBLAS has "
                    f"no CUBLAS_WORKSPACE_CONFIG ({unset=})"
                )
        found = func(*args, **kwargs)
        made = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        gpu.check(name, made)
        for x in made:
            gpu.put(x)
        return found


def _is_composite(func: Any) -> bool:
    """Whether aten itself makes an operation of others, whatever the device."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    found = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    return bool(found) and key not in func.py_kernels
