"""A stack machine for pickles that only builds data.

A pickle is a program. This machine knows only the opcodes that build dicts, lists, tuples and
numbers; which globals may be named, and what becomes of a call of one, a reader says (`Language`);
all else is refused by name. The standard library's unpickler is no base for this: with every global
forbidden, a megabyte of nested tuples used as a key still crashes the process, and nine bytes make
it allocate gigabytes. Here time and memory are in proportion to a file's length, for an object that
it names many times is nowhere copied, printed, hashed or compared as a whole.
"""

import dataclasses
import pickletools
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any, BinaryIO, NoReturn

# What pickletools, zipfile and the machine raise on bytes that make no sense.
DAMAGE = (
  ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError,
  ValueError, struct.error, zipfile.BadZipFile,
)  # fmt: skip

_POPS_TO_MARK = {'TUPLE', 'APPENDS', 'SETITEMS', 'ADDITEMS'}
_POPS = {
  'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3, 'APPEND': 1, 'SETITEM': 2, 'STACK_GLOBAL': 2,
  'REDUCE': 2, 'NEWOBJ': 2, 'BUILD': 1, 'BINPERSID': 1,
}  # fmt: skip
_PUSHES = {
  'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False,
  'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple,
}  # fmt: skip
# Not LONG4, of integers of more than 255 bytes: to hash, compare or print one takes long each time.
_PUSHES_ARG = {
  'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINSTRING', 'SHORT_BINSTRING',
  'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8',
}  # fmt: skip


_MAX_ARGS = 16  # torch's own calls have 8 at most
_MAX_KEY = 10_000  # letters of a dict's key: equal ones are compared whenever they are set


class Refused(Exception):
  """A sentence without its beginning, the name of the file, and its full stop."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
  name: str  # 'module.name', one that the language knows


class _Index(int):
  """An integer that is a key: hashed as text, so that no file can choose many that collide."""

  __slots__ = ()

  def __hash__(self) -> int:
    return hash(int.__repr__(self))


def told(held: Any) -> str:
  """What a file holds, for a sentence: text cut and escaped, numbers, of all else only the type.

  The repr of three tuples of three tuples of ... that are one object each has no end.
  """
  if isinstance(held, str):
    return repr(held[:50])
  if held is None or isinstance(held, float) or (isinstance(held, int) and abs(held) < 2**64):
    return repr(held)
  return f'of the type {type(held).__name__!r}'


def _no_persistent(*pid: Any) -> NoReturn:
  raise Refused('has a persistent id')


@dataclasses.dataclass(frozen=True)
class Language:
  """What a kind of files may say.

  Attributes:
    calls: what becomes of a call, by the global's name, of at most 16 arguments. None may loop or
      copy: a pickle may call one of them every few bytes.
    names: further globals, which may be named and not called.
    advice: how a refusal ends.
    build: (object, state) -> None, what becomes of attributes that are set; may refuse.
    persistent: persistent id -> object; may refuse.
    sets: whether there are sets; they become lists.
  """

  calls: Mapping[str, Callable]
  names: Collection[str]
  advice: str
  build: Callable[[Any, Any], None]
  persistent: Callable[[Any], Any] = _no_persistent
  sets: bool = False

  def refuse(self, what: str) -> NoReturn:
    raise Refused(f'{what}, {self.advice}')

  def find(self, name: str) -> Global:
    if not (name in self.calls or name in self.names):
      self.refuse(f'asks for the global {name[:100]!r}')
    return Global(name)

  def call(self, function: Any, args: tuple) -> Any:
    if not (isinstance(function, Global) and function.name in self.calls):
      self.refuse(f'calls {getattr(function, "name", "what is no function")}')
    if not isinstance(args, tuple):
      raise TypeError('the arguments of a call are no tuple')
    if len(args) > _MAX_ARGS:
      self.refuse(f'calls {function.name} with {len(args)} arguments')
    return self.calls[function.name](*args)

  def assign(self, target: Any, items: list) -> None:
    keys = items[::2]
    if not all(isinstance(key, str | int) for key in keys):
      self.refuse('has a dict with a key that is neither a string nor an integer')
    if any(isinstance(key, str) and len(key) > _MAX_KEY for key in keys):
      self.refuse(f'has a dict with a key of more than {_MAX_KEY} letters')
    keys = [_Index(key) if type(key) is int else key for key in keys]
    target.update(zip(keys, items[1::2], strict=True))


def unpickle(stream: BinaryIO, language: Language) -> Any:
  """The object of the next pickle.

  Raises:
    Refused: it asks for what the language has not.
    any of DAMAGE: it makes no sense.
  """
  stack, outer, memo = [], [], {}
  for op, arg, _ in pickletools.genops(stream):
    if op.name in _POPS_TO_MARK:
      items, stack = stack, outer.pop()
    else:
      items = [stack.pop() for _ in range(_POPS.get(op.name, 0))][::-1]
    match op.name:
      case 'PROTO' | 'FRAME':
        pass
      case 'STOP':
        return stack.pop()
      case 'MARK':
        outer.append(stack)
        stack = []
      case 'BINPUT' | 'LONG_BINPUT':
        memo[arg] = stack[-1]
      case 'MEMOIZE':
        memo[len(memo)] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[arg])
      case 'TUPLE' | 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        stack.append(tuple(items))
      case 'APPEND' | 'APPENDS':
        stack[-1].extend(items)
      case 'SETITEM' | 'SETITEMS':
        language.assign(stack[-1], items)
      case 'EMPTY_SET' if language.sets:
        stack.append([])
      case 'ADDITEMS' if language.sets:
        stack[-1].extend(items)
      case 'GLOBAL':
        stack.append(language.find(arg.replace(' ', '.', 1)))
      case 'STACK_GLOBAL':
        stack.append(language.find('.'.join(items)))
      case 'REDUCE' | 'NEWOBJ':  # the latter for torch.Size in torch 1.0
        stack.append(language.call(*items))
      case 'BINPERSID':
        stack.append(language.persistent(*items))
      case 'BUILD':
        language.build(stack[-1], *items)
      case name if name in _PUSHES:
        stack.append(_PUSHES[name]())
      case name if name in _PUSHES_ARG:
        stack.append(arg)
      case name:
        language.refuse(f'uses the pickle opcode {name}')
