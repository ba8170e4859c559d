"""What type checkers know of keys, handlers and options: the parts that _typed.pyi is made of.

At run time there is no module of this name.
"""
# pyright: reportInvalidTypeVarUse=false

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, overload

from typing_extensions import Never, ParamSpec, TypeAlias

from agent_event_bus._core import Event
from agent_event_bus.keys import EventKey

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")

# Keys

EveryEvent: TypeAlias = Literal["*", "**"]
Text: TypeAlias = str | Enum
TextT = TypeVar("TextT", bound=str | Enum)
TextList: TypeAlias = list[TextT] | tuple[TextT, ...]
Typed: TypeAlias = EventKey[T] | type[T]
TypedList: TypeAlias = list[EventKey[T]] | list[type[T]] | tuple[EventKey[T] | type[T], ...]
Name: TypeAlias = str | Enum | EventKey[Any]
Key: TypeAlias = str | Enum | EventKey[Any] | type[Any]
KeyT = TypeVar("KeyT", bound=Key)
MixedList: TypeAlias = list[Key] | tuple[Key, ...]
AnyList: TypeAlias = list[Any] | tuple[Any, ...]

# Payloads. That one may be a function which never returns is a detour for mypy: it infers T from
# arguments that can be functions last, and so knows T when it comes to a dict display.

Payload: TypeAlias = T | Callable[[T], Never]

# Handlers. A lambda without annotations gets them from a Callable. mypy does not try that with a
# protocol, and would refuse a lambda with default values for a Callable without.

class Unary(Protocol[T_contra, R_co]):
    def __call__(self, payload: T_contra, /) -> R_co: ...

class UnaryWithDefault(Protocol[T_contra, R_co]):
    def __call__(self, payload: T_contra, default: Any = ..., /) -> R_co: ...

class Binary(Protocol[R_co]):
    def __call__(self, event_name: str, payload: Any, /) -> R_co: ...

UnaryT = TypeVar("UnaryT", bound=Callable[[Event[Any]], object])
BinaryT = TypeVar("BinaryT", bound=Callable[[str, Any], object])
UnaryOrBinaryT = TypeVar(
    "UnaryOrBinaryT", bound=Callable[[Any], object] | Callable[[str, Any], object]
)

class Accepts(Protocol[T_contra, P, R_co]):
    """A callable that takes one T, and has the parameters P and the result R."""

    @overload
    def __call__(self, payload: T_contra, /) -> object: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

class Decorator(Protocol[T_co]):
    """Subscribes a callable that takes one T, and gives it back as it is.

    mypy finds no P for a callable that is exactly the first form of Accepts. A second overload,
    with a Callable, would take that, but have mypy forget the types of handlers that take an Any.
    """

    def __call__(self, handler: Accepts[T_co, P, R], /) -> Callable[P, R]: ...

class AHandlerOfEveryEventTakesTheNameAndThePayload:
    """Stands in the result for a handler of "*" that takes anything else, which is to be refused.

    To a type checker "*" is also any str, and that handler might do for one. It complains about a
    coroutine that is not awaited, and about one that is used as something else.
    """

# Options

Where: TypeAlias = Callable[[T], object] | Mapping[str, object] | None

class OptionsOfOnce(TypedDict, Generic[T], total=False):
    """Options of once(), but for envelope."""

    priority: int
    weak: bool
    where: Where[T]
    isolate: bool
    timeout: float | None
    offload: bool

class Options(OptionsOfOnce[T], total=False):
    """Options of on() and subscribe(), but for envelope."""

    once: bool
